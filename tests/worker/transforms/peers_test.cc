// SPDX-License-Identifier: Apache-2.0
// Scales that llm-compressor moved from norms into linears, read off the norms
// that it stored, beside those that ours choose from the same tokens.
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "proto/base/atomic_file.h"
#include "tests/support/test_data.h"
#include "tests/worker/transforms/transform_run.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/transforms/scale_fold.h"

namespace quantd::transforms {
namespace {

std::string Fixture(const std::string& name) {
  return support::TestData("fixtures/quantized/" + name);
}

// The float model, block by block, over the fixtures' calibration tokens.
class PeerScalesTest : public testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_TEST_DATA();
    opened_ = *OpenEditable(Fixture("source_fp32"));
    for (const auto& row : nlohmann::json::parse(
             *base::ReadFile(Fixture("source_fp32/calib.json")))) {
      residuals_.push_back(*opened_.model->Embed(
          at::tensor(row.get<std::vector<int64_t>>(), at::kLong)));
    }
  }

  int64_t blocks() const { return opened_.model->num_blocks(); }

  // Loads the next block and takes all tokens through it.
  void Advance() {
    ++index_;
    block_ = *opened_.model->LoadBlock(index_, residuals_[0].size(0));
    folds_ = opened_.model->Folds(index_);
    std::map<std::string, calibration::InputAccumulator> sums;
    for (at::Tensor& residual : residuals_) {
      models::SequenceState state;
      state.residual = residual;
      block_->Begin(&state);
      for (size_t s = 0; s < block_->stages().size(); ++s) {
        const models::Stage& stage = block_->stages()[s];
        const auto inputs = block_->Inputs(static_cast<int64_t>(s), state);
        for (size_t l = 0; l < stage.linears.size(); ++l) {
          const at::Tensor& rows = inputs[stage.input_of[l]];
          EXPECT_TRUE(sums.try_emplace(stage.linears[l], true, at::kCPU)
                          .first->second.Add(rows, base::CancelToken())
                          .ok());
          Widen(rows, &ranges_[stage.linears[l]]);
        }
        block_->Apply(static_cast<int64_t>(s), &state);
      }
      residual = state.residual;
    }
    inputs_.clear();
    for (auto& [name, sum] : sums) {
      inputs_[name] =
          std::make_shared<calibration::InputStatistics>(*sum.Finish());
    }
  }

  BlockProblem Problem(
      const std::map<std::string, formats::WeightSpec>& specs) {
    return ProblemOf(opened_, *block_, folds_, specs, inputs_);
  }

  // What an input feature's values lie in, float32 [in] each.
  struct Range {
    at::Tensor low;
    at::Tensor high;
  };
  static void Widen(const at::Tensor& rows, Range* range) {
    const at::Tensor low = rows.amin(0);
    const at::Tensor high = rows.amax(0);
    range->low = range->low.defined() ? at::minimum(range->low, low) : low;
    range->high = range->high.defined() ? at::maximum(range->high, high) : high;
  }

  // What the gain of the fold's norm was divided by.
  at::Tensor Theirs(const models::ScaleFold& fold,
                    const checkpoints::TensorMap& peer) {
    const std::string& norm = fold.producers.front();
    return opened_.reader->Read(norm)
        ->to(at::kFloat)
        .div(peer.at(norm).to(at::kFloat));
  }

  // The same of `edits`.
  static at::Tensor Ours(const models::ScaleFold& fold,
                         const BlockEdits& edits) {
    for (const Edit& edit : edits.edits) {
      if (edit.tensor == fold.producers.front()) return edit.operand;
    }
    return at::ones({fold.channels});
  }

  BlockEdits Fit(const std::string& id, const BlockProblem& problem) {
    v1::Component component;
    component.set_id(id);
    const auto transform = MakeTransform(component);
    EXPECT_TRUE(transform.ok()) << transform.status();
    const base::CancelToken cancel;
    auto edits = (*transform)->FitBlock(problem, cancel);
    EXPECT_TRUE(edits.ok()) << edits.status();
    return *std::move(edits);
  }

  EditableModel opened_;
  std::vector<at::Tensor> residuals_;
  int64_t index_ = -1;
  std::unique_ptr<models::Block> block_;
  models::BlockFolds folds_;
  InputsByLinear inputs_;
  std::map<std::string, Range> ranges_;
};

checkpoints::TensorMap ReadPeer(const std::string& folder) {
  return *checkpoints::ReadSafetensors(Fixture(folder + "/model.safetensors"));
}

// Where equation 4 has the largest |x|, the peer has half of max x - min x. It
// ran in bfloat16, 8 bits of significand: inputs, scales and the gains that
// they divide are each rounded to it.
TEST_F(PeerScalesTest, SmoothQuantsAreThePeersButForItsRange) {
  const auto peer = ReadPeer("llmc_w8a8_int_sq_gptq");
  int folds = 0;
  for (int64_t i = 0; i < blocks(); ++i) {
    Advance();
    const auto specs = SpecsFor(*opened_.model, i, {"int8", -1});
    const BlockEdits edits = Fit("smoothquant", Problem(specs));
    for (const models::ScaleFold& fold : folds_.scales) {
      if (!fold.from_norm) continue;
      ++folds;
      const at::Tensor theirs = Theirs(fold, peer);
      const Range& range = ranges_.at(fold.consumers.front());
      const at::Tensor largest = at::maximum(range.high, range.low.neg());
      const at::Tensor half = range.high.sub(range.low).div(2);
      const at::Tensor off = Ours(fold, edits)
                                 .mul(half.div(largest).sqrt())
                                 .div(theirs)
                                 .sub(1)
                                 .abs();
      EXPECT_LT(off.max().item<float>(), 4 * 0x1p-8f);
      EXPECT_LT(off.mean().item<float>(), 0x1p-8f);
      // Rows of the smoothed weights, symmetric over 255 steps.
      for (const std::string& name : fold.consumers) {
        const at::Tensor scales =
            block_->linear(name).DenseWeight().mul(theirs).abs().amax(1).div(
                127.5);
        const at::Tensor stored =
            peer.at(name + ".weight_scale").to(at::kFloat).flatten();
        EXPECT_LT(scales.div(stored).sub(1).abs().max().item<float>(),
                  3 * 0x1p-8f)
            << name;
      }
    }
  }
  EXPECT_EQ(folds, 4);
}

// The peer looks for the least error of what attention or the MLP computes, on
// exponents up to 1; ours for the least sum over the linears. By that sum ours
// may not be worse.
TEST_F(PeerScalesTest, AwqLosesNoMoreThanThePeersScales) {
  const auto peer = ReadPeer("llmc_w4a16_g32_asym_awq");
  const formats::WeightSpec spec{"int4", 32, false, "bfloat16"};
  const base::CancelToken cancel;
  int folds = 0;
  for (int64_t i = 0; i < blocks(); ++i) {
    Advance();
    const auto specs = SpecsFor(*opened_.model, i, spec);
    const BlockProblem problem = Problem(specs);
    const BlockEdits edits = Fit("awq", problem);
    for (const models::ScaleFold& fold : folds_.scales) {
      if (!fold.from_norm) continue;
      ++folds;
      const auto consumers = *QuantizedConsumers(fold, problem, cancel);
      const auto loss = [&](const at::Tensor& scale) {
        return *RoundingLoss(consumers, fold.Spread(scale), cancel);
      };
      const double own = loss(Ours(fold, edits));
      EXPECT_LT(own, loss(Theirs(fold, peer)) * 1.01);
      EXPECT_LT(own, loss(at::ones({fold.channels})));
    }
  }
  EXPECT_EQ(folds, 4);
}

}  // namespace
}  // namespace quantd::transforms
