// SPDX-License-Identifier: Apache-2.0
// Where a block rounds what its attention keeps.
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/support/test_data.h"
#include "tests/support/tiny_checkpoint.h"
#include "worker/models/model.h"

namespace quantd::models {
namespace {

constexpr int64_t kTokens = 5;
constexpr int64_t kKvHeads = 2;
constexpr int64_t kHeadDim = 16;

class KvRoundingTest : public testing::Test {
 protected:
  KvRoundingTest() {
    support::WriteTinyLlama({}, folder_.File("tiny"));
    reader_ = *checkpoints::OpenCheckpoint(folder_.File("tiny"));
    loader_ = MakeDenseLoader(*reader_);
    model_ = *MakeModel(*reader_, *loader_);
    block_ = *model_->LoadBlock(0, kTokens);
    start_.residual = *model_->Embed(at::tensor({3, 1, 4, 1, 5}).to(at::kLong));
  }

  // What stands before o_proj.
  at::Tensor Attended() const {
    SequenceState state = start_;
    block_->Begin(&state);
    block_->Apply(0, &state);
    return state.input;
  }

  support::TemporaryDirectory folder_;
  std::unique_ptr<checkpoints::CheckpointReader> reader_;
  std::unique_ptr<LinearLoader> loader_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Block> block_;
  SequenceState start_;
};

TEST_F(KvRoundingTest, HeadsOfRotatedKeysAndOfValuesAreTheRows) {
  std::vector<at::Tensor> rounded;
  const auto keep = [&](const at::Tensor& rows) {
    rounded.push_back(rows.clone());
    return rows;
  };
  block_->RoundKeysAndValues({keep, keep});
  Attended();
  ASSERT_EQ(rounded.size(), 2u);
  SequenceState state = start_;
  block_->Begin(&state);
  const std::vector<int64_t> shape = {kTokens * kKvHeads, kHeadDim};
  const auto plain = [&](size_t linear) {
    return block_->linear(block_->stages()[0].linears[linear])
        .Apply(state.input)
        .view(shape);
  };
  const at::Tensor keys = plain(1);
  EXPECT_TRUE(rounded[1].equal(plain(2)));
  // Token 0 is not turned, the others keep their lengths alone.
  EXPECT_TRUE(at::allclose(rounded[0].narrow(0, 0, kKvHeads),
                           keys.narrow(0, 0, kKvHeads), 1e-5, 1e-6));
  EXPECT_FALSE(at::allclose(rounded[0], keys, 1e-3, 1e-4));
  EXPECT_TRUE(at::allclose(rounded[0].square().sum(1), keys.square().sum(1),
                           1e-4, 1e-6));
}

// q Q (k Q)^T is q k^T.
TEST_F(KvRoundingTest, RotatingKeysAloneChangesNothing) {
  const at::Tensor plain = Attended();
  const auto keep = [](const at::Tensor& rows) { return rows; };
  block_->RoundKeysAndValues(
      {formats::InBasis(numerics::Rotation::Plain(kHeadDim), keep), keep});
  EXPECT_LT(Attended().sub(plain).abs().max().item<float>(), 1e-6);
}

TEST_F(KvRoundingTest, AttentionReadsWhatWasKept) {
  const at::Tensor plain = Attended();
  const auto forget = [](const at::Tensor& rows) {
    return at::zeros_like(rows);
  };
  block_->RoundKeysAndValues({forget, forget});
  EXPECT_EQ(Attended().abs().max().item<float>(), 0);
  block_->RoundKeysAndValues({});
  EXPECT_TRUE(Attended().equal(plain));
}

}  // namespace
}  // namespace quantd::models
