// SPDX-License-Identifier: Apache-2.0
// Linears whose inputs are rotated at run time, alone and in a block.
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <memory>

#include "tests/support/test_data.h"
#include "tests/support/tiny_checkpoint.h"
#include "tests/worker/models/model_run.h"
#include "worker/models/model.h"

namespace quantd::models {
namespace {

constexpr char kDown[] = "model.layers.0.mlp.down_proj";
constexpr int64_t kDownStage = 3;

class RotatedLinearTest : public testing::Test {
 protected:
  RotatedLinearTest() {
    support::WriteTinyLlama({}, folder_.File("tiny"));
    reader_ = *checkpoints::OpenCheckpoint(folder_.File("tiny"));
    plain_ = MakeDenseLoader(*reader_);
    rotating_ = WithRotatedInputs(MakeDenseLoader(*reader_), rotations_);
    model_ = *MakeModel(*reader_, *plain_);
    rotated_ = *MakeModel(*reader_, *rotating_);
    rotations_.insert({kDown, numerics::Rotation::Randomized(128, 5)});
  }

  // What the weights of down_proj are multiplied with.
  static at::Tensor DownInput(Model& model) {
    const auto block = *model.LoadBlock(0, 4);
    SequenceState state;
    state.residual = *model.Embed(at::tensor({3, 1, 4, 1}).to(at::kLong));
    block->Begin(&state);
    for (int64_t stage = 0; stage < kDownStage; ++stage) {
      block->Apply(stage, &state);
    }
    return block->Inputs(kDownStage, state).front();
  }

  support::TemporaryDirectory folder_;
  numerics::InputRotations rotations_;
  std::unique_ptr<checkpoints::CheckpointReader> reader_;
  std::unique_ptr<LinearLoader> plain_;
  std::unique_ptr<LinearLoader> rotating_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Model> rotated_;
};

TEST_F(RotatedLinearTest, ComputesWhatItComputedBefore) {
  const auto plain = *plain_->Load(kDown, 64, 128, false);
  const auto rotated = *rotating_->Load(kDown, 64, 128, false);
  const at::Tensor x = at::randn({9, 128}, at::kFloat);
  const at::Tensor before = plain->Apply(x);
  EXPECT_LT(rotated->Apply(x).sub(before).abs().max().item<double>(),
            1e-5 * before.abs().max().item<double>());
  ASSERT_NE(rotated->input_rotation(), nullptr);
  EXPECT_TRUE(rotated->DenseWeight().equal(
      rotations_.at(kDown).ApplyToWeight(plain->DenseWeight(), at::kFloat)));
}

TEST_F(RotatedLinearTest, OthersAreLoadedAsTheyAre) {
  const char* name = "model.layers.1.mlp.down_proj";
  const auto loaded = *rotating_->Load(name, 64, 128, false);
  EXPECT_EQ(loaded->input_rotation(), nullptr);
  EXPECT_TRUE(loaded->DenseWeight().equal(
      (*plain_->Load(name, 64, 128, false))->DenseWeight()));
}

TEST_F(RotatedLinearTest, WhatABlockSaysItReadsIsRotated) {
  const at::Tensor plain = DownInput(*model_);
  EXPECT_TRUE(DownInput(*rotated_).equal(rotations_.at(kDown).Apply(plain)));
}

TEST_F(RotatedLinearTest, TheModelsFunctionStays) {
  const at::Tensor ids = at::tensor({3, 1, 4, 1, 5, 9}).to(at::kLong);
  const at::Tensor before = RunModel(*model_, ids)->logits;
  const at::Tensor after = RunModel(*rotated_, ids)->logits;
  EXPECT_FALSE(after.equal(before));
  EXPECT_LT(after.sub(before).abs().max().item<double>(), 2e-5);
}

TEST_F(RotatedLinearTest, RoundingIsBehindTheRotation) {
  const auto rotated = *rotating_->Load(kDown, 64, 128, false);
  const at::Tensor x = at::randn({2, 128}, at::kFloat);
  at::Tensor rounded;
  const auto linear = MakeRotatedLinear(
      MakeRoundedLinear(MakeDenseLinear(rotated->DenseWeight(), at::Tensor()),
                        [&rounded](const at::Tensor& rows) {
                          rounded = rows;
                          return rows;
                        }),
      rotated->input_rotation());
  EXPECT_TRUE(linear->Apply(x).equal(rotated->Apply(x)));
  EXPECT_TRUE(rounded.equal(rotations_.at(kDown).Apply(x)));
}

}  // namespace
}  // namespace quantd::models
