// SPDX-License-Identifier: Apache-2.0
// Gradients of a model's loss against differences of the loss.
#include "worker/models/loss_gradient.h"

#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/support/test_data.h"
#include "tests/support/tiny_checkpoint.h"
#include "worker/checkpoints/reader.h"
#include "worker/models/model.h"

namespace quantd::models {
namespace {

constexpr int64_t kTokens = 10;

// A model and a sequence, and its loss as a function of what a block makes.
class GradientTest : public testing::TestWithParam<std::string> {
 protected:
  void Open() {
    std::string path = folder_.File("tiny");
    if (GetParam().empty()) {
      support::WriteTinyLlama({.layers = 3}, path);
    } else {
      path = support::TestData("fixtures/models/" + GetParam());
    }
    auto reader = checkpoints::OpenCheckpoint(path);
    ASSERT_TRUE(reader.ok()) << reader.status();
    reader_ = *std::move(reader);
    loader_ = MakeDenseLoader(*reader_);
    auto model = MakeModel(*reader_, *loader_);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    ids_ = at::arange(kTokens, at::kLong)
               .mul(37)
               .add(11)
               .remainder(model_->vocabulary_size());
    SequenceState state;
    state.residual = *model_->Embed(ids_);
    for (int64_t i = 0; i < model_->num_blocks(); ++i) {
      (*model_->LoadBlock(i, kTokens))->Forward(&state);
      outputs_.push_back(state.residual.clone());
    }
  }
  // Where the output of `block` is `output`.
  double LossFrom(int64_t block, const at::Tensor& output) {
    SequenceState state;
    state.residual = output;
    for (int64_t i = block + 1; i < model_->num_blocks(); ++i) {
      (*model_->LoadBlock(i, kTokens))->Forward(&state);
    }
    const at::Tensor logits =
        (*model_->LoadHead())->Apply(*model_->FinalNorm(state.residual));
    return logits.to(at::kDouble)
        .log_softmax(-1)
        .narrow(0, 0, kTokens - 1)
        .gather(1, ids_.narrow(0, 1, kTokens - 1).unsqueeze(1))
        .sum()
        .neg()
        .item<double>();
  }
  // Against central differences, at the largest elements and some others.
  void ExpectGradient(int64_t block, const at::Tensor& gradient) {
    const at::Tensor flat = gradient.reshape(-1);
    const at::Tensor order = flat.abs().argsort(/*dim=*/0, /*descending=*/true);
    const double largest = flat.abs().max().item<double>();
    ASSERT_GT(largest, 0);
    for (const int64_t rank : {0, 1, 5, 50, 400}) {
      const int64_t at = order[rank].item<int64_t>();
      const at::Tensor& output = outputs_[static_cast<size_t>(block)];
      const double step = 0.01 * output.square().mean().sqrt().item<double>();
      double losses[2];
      for (const int side : {0, 1}) {
        at::Tensor moved = output.clone();
        moved.view(-1)[at] += side == 0 ? -step : step;
        losses[side] = LossFrom(block, moved);
      }
      const double difference = (losses[1] - losses[0]) / (2 * step);
      EXPECT_NEAR(flat[at].item<double>(), difference, 0.01 * largest)
          << "block " << block << ", element " << at;
    }
  }

  const support::TemporaryDirectory folder_;
  std::unique_ptr<checkpoints::CheckpointReader> reader_;
  std::unique_ptr<LinearLoader> loader_;
  std::unique_ptr<Model> model_;
  at::Tensor ids_;
  // By block.
  std::vector<at::Tensor> outputs_;
};

TEST_P(GradientTest, IsTheDifferenceOfTheLossBehindEveryBlock) {
  if (!GetParam().empty()) SKIP_WITHOUT_TEST_DATA();
  Open();
  const auto head = model_->LoadHead();
  ASSERT_TRUE(head.ok()) << head.status();
  auto gradient = HeadGradient(*model_, **head, outputs_.back(), ids_);
  ASSERT_TRUE(gradient.ok()) << gradient.status();
  // Nothing follows the last token.
  EXPECT_TRUE((*gradient)[kTokens - 1].eq(0).all().item<bool>());
  for (int64_t block = model_->num_blocks() - 1;; --block) {
    ExpectGradient(block, *gradient);
    if (block == 0) break;
    const auto loaded = model_->LoadBlock(block, kTokens);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    const OpenBlock open(**loaded, {});
    gradient = InputGradient(open, outputs_[static_cast<size_t>(block - 1)],
                             *gradient);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GradientTest,
                         testing::Values("", "mixtral", "qwen3_moe"),
                         [](const auto& test) {
                           return test.param.empty() ? std::string("llama")
                                                     : test.param;
                         });

}  // namespace
}  // namespace quantd::models
