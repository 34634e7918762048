// SPDX-License-Identifier: Apache-2.0
// What the fitted transforms choose, on a random llama, against the published
// rules computed the long way: over tokens, in float64.
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/test_data.h"
#include "tests/support/tiny_checkpoint.h"
#include "tests/worker/transforms/transform_run.h"
#include "worker/transforms/scale_fold.h"

namespace quantd::transforms {
namespace {

using formats::WeightSpec;

// Block 0 of a model, with what a transform sees of it.
class FittedTest : public testing::Test {
 protected:
  void SetUp() override {
    // Four query heads share two heads of values.
    support::WriteTinyLlama({}, directory_.File("tiny"));
    auto opened = OpenEditable(directory_.File("tiny"));
    ASSERT_TRUE(opened.ok()) << opened.status();
    opened_ = *std::move(opened);
    block_ = *opened_.model->LoadBlock(0, kTokens);
    folds_ = opened_.model->Folds(0);
    specs_ = SpecsFor(*opened_.model, 0, Int3());
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < kTokens; ++i) ids.push_back(i * i * 7 % 256);
    models::SequenceState state;
    state.residual = *opened_.model->Embed(at::tensor(ids));
    // Some channels are loud, as in trained models.
    state.residual.select(1, 3).mul_(20);
    state.residual.select(1, 40).mul_(8);
    inputs_ = *GatherInputs(*block_, &state, &tokens_);
  }

  BlockEdits Fit(const std::string& id,
                 const std::map<std::string, v1::Value>& params = {}) {
    v1::Component component;
    component.set_id(id);
    component.mutable_params()->insert(params.begin(), params.end());
    const auto transform = MakeTransform(component);
    EXPECT_TRUE(transform.ok()) << transform.status();
    const base::CancelToken cancel;
    auto edits =
        (*transform)
            ->FitBlock(ProblemOf(opened_, *block_, folds_, specs_, inputs_),
                       cancel);
    EXPECT_TRUE(edits.ok()) << edits.status();
    return *std::move(edits);
  }

  at::Tensor Weight(const std::string& name) const {
    return block_->linear(name).DenseWeight();
  }
  // ||W X||^2, token by token.
  double TokenEnergy(const std::string& name, const at::Tensor& weight) {
    return at::mm(weight.to(at::kDouble), tokens_.at(name).to(at::kDouble).t())
        .square()
        .sum()
        .item<double>();
  }
  // ||(W - Q(W s) / s) X||^2 / ||W X||^2, summed over all consumers.
  double TokenLoss(const models::ScaleFold& fold, const at::Tensor& scale) {
    double loss = 0;
    const at::Tensor spread = fold.Spread(scale);
    for (const std::string& name : fold.consumers) {
      const at::Tensor w = Weight(name);
      const auto rounded =
          formats::RoundToNearest(w.mul(spread).contiguous(), Int3());
      EXPECT_TRUE(rounded.ok()) << rounded.status();
      const at::Tensor error = formats::Dequantize(*rounded).div(spread).sub(w);
      loss += TokenEnergy(name, error) / TokenEnergy(name, w);
    }
    return loss;
  }
  // The scale of the fold's channels that `edits` hold; ones where none.
  at::Tensor ScaleOf(const models::ScaleFold& fold, const BlockEdits& edits) {
    for (const Edit& edit : edits.edits) {
      if (edit.tensor == fold.producers.front() &&
          edit.kind == EditKind::kDivideRows) {
        return edit.operand;
      }
    }
    return at::ones({fold.channels});
  }

  static constexpr int64_t kTokens = 96;
  const support::TemporaryDirectory directory_;
  EditableModel opened_;
  std::unique_ptr<models::Block> block_;
  models::BlockFolds folds_;
  std::map<std::string, WeightSpec> specs_;
  InputsByLinear inputs_;
  // By linear.
  std::map<std::string, at::Tensor> tokens_;
};

// mean over rows of |w| / max |w| of its group of 16, by loops over groups.
at::Tensor TextbookMeanWeight(const std::vector<at::Tensor>& weights) {
  const at::Tensor all = at::cat(weights, 0).abs().to(at::kDouble);
  const at::Tensor groups = all.view({all.size(0), -1, 16});
  return groups.div(groups.amax(2, true)).view(all.sizes()).mean(0);
}

TEST_F(FittedTest, AwqTakesTheScaleThatTheSumOverTokensWouldTake) {
  const BlockEdits edits = Fit("awq");
  int folds_moved = 0;
  for (const models::ScaleFold& fold : folds_.scales) {
    std::vector<at::Tensor> weights;
    for (const std::string& name : fold.consumers) {
      weights.push_back(Weight(name));
    }
    const at::Tensor x =
        fold.Gather(tokens_[fold.consumers.front()].abs().mean(0)).mean(1);
    const at::Tensor w =
        fold.Gather(TextbookMeanWeight(weights).to(at::kFloat)).mean(1);
    const double identity = TokenLoss(fold, at::ones({fold.channels}));
    double best = identity;
    for (int i = 0; i < 20; ++i) {
      const double r = i / 20.0;
      at::Tensor s = x.pow(r).div(w.pow(1 - r).add(1e-4)).clamp_min(1e-4);
      s = s.div(s.max().mul(s.min()).sqrt());
      best = std::min(best, TokenLoss(fold, s));
    }
    const double own = TokenLoss(fold, ScaleOf(fold, edits));
    EXPECT_NEAR(own, best, 1e-3 * best) << fold.consumers.front();
    EXPECT_LE(own, identity);
    folds_moved += own < identity ? 1 : 0;
  }
  // Loud channels are what the method is for.
  EXPECT_GE(folds_moved, 2);
}

// Of a candidate's scaled weights, as the layers will have it.
TEST_F(FittedTest, ACandidatesErrorHasOneTensorScaleForEachInput) {
  WeightSpec nvfp4;
  nvfp4.format = "nvfp4";
  nvfp4.group_size = 16;
  specs_ = SpecsFor(*opened_.model, 0, nvfp4);
  const BlockProblem problem =
      ProblemOf(opened_, *block_, folds_, specs_, inputs_);
  const base::CancelToken cancel;
  for (const models::ScaleFold& fold : folds_.scales) {
    const auto consumers = *QuantizedConsumers(fold, problem, cancel);
    const at::Tensor scale = at::arange(1, fold.channels + 1).to(at::kFloat);
    const at::Tensor spread = fold.Spread(scale);
    WeightSpec joined = nvfp4;
    for (const std::string& name : fold.consumers) {
      joined.shared_range =
          std::max(joined.shared_range,
                   Weight(name).mul(spread).abs().max().item<float>());
    }
    double expected = 0;
    for (const std::string& name : fold.consumers) {
      const at::Tensor w = Weight(name);
      const at::Tensor rounded = formats::Dequantize(
          *formats::RoundToNearest(w.mul(spread).contiguous(), joined));
      expected +=
          TokenEnergy(name, rounded.div(spread).sub(w)) / TokenEnergy(name, w);
    }
    EXPECT_NEAR(*RoundingLoss(consumers, spread, cancel) / expected, 1, 1e-3);
  }
}

TEST_F(FittedTest, AwqScalesHaveTheirMiddleAtOne) {
  for (const bool duo : {true, false}) {
    v1::Value value;
    value.set_bool_value(duo);
    const BlockEdits edits = Fit("awq", {{"duo", value}});
    ASSERT_FALSE(edits.divisors.empty());
    for (const auto& [module, divisor] : edits.divisors) {
      EXPECT_NEAR(divisor.max().mul(divisor.min()).item<double>(), 1, 1e-5);
    }
  }
}

TEST_F(FittedTest, AwqLeavesADeadChannelAlone) {
  const std::string query = "model.layers.0.self_attn.q_proj";
  calibration::InputStatistics& inputs = *inputs_.at(query);
  inputs.mean[5] = 0;
  inputs.second.gram[5].zero_();
  inputs.second.gram.select(1, 5).zero_();
  const BlockEdits edits = Fit("awq");
  ASSERT_TRUE(edits.divisors.contains(query));
  EXPECT_NEAR(edits.divisors.at(query)[5].item<float>(), 1, 1e-6);
}

TEST_F(FittedTest, WithoutStatisticsNothingIsMoved) {
  inputs_.clear();
  EXPECT_TRUE(Fit("awq").edits.empty());
  EXPECT_TRUE(Fit("smoothquant").edits.empty());
  EXPECT_TRUE(Fit("clip").edits.empty());
  EXPECT_TRUE(Fit("magr").edits.empty());
}

TEST_F(FittedTest, WhatStaysInFloatingPointIsNoReasonToMoveAScale) {
  specs_.clear();
  EXPECT_TRUE(Fit("awq").edits.empty());
  EXPECT_TRUE(Fit("smoothquant").edits.empty());
  EXPECT_TRUE(Fit("clip").edits.empty());
}

// Equation 4 with alpha = 1/2: both maxima become sqrt(a w).
TEST_F(FittedTest, SmoothQuantMakesActivationsAndWeightsEquallyLarge) {
  const BlockEdits edits = Fit("smoothquant");
  // q, k, v; gate, up.
  EXPECT_EQ(edits.divisors.size(), 5u);
  for (const models::ScaleFold& fold : folds_.scales) {
    EXPECT_EQ(edits.divisors.contains(fold.consumers.front()), fold.from_norm);
    if (!fold.from_norm) continue;
    const at::Tensor s = edits.divisors.at(fold.consumers.front());
    std::vector<at::Tensor> weights;
    for (const std::string& name : fold.consumers) {
      weights.push_back(Weight(name));
    }
    const at::Tensor a = tokens_[fold.consumers.front()].abs().amax(0);
    const at::Tensor w = at::cat(weights, 0).abs().amax(0);
    const at::Tensor expected = a.mul(w).sqrt();
    const auto off = [&](const at::Tensor& maxima) {
      return maxima.div(expected).sub(1).abs().max().item<double>();
    };
    EXPECT_LT(off(a.div(s)), 1e-5);
    EXPECT_LT(off(w.mul(s)), 1e-5);
  }
}

TEST_F(FittedTest, SmoothQuantWithAlphaOneMakesEveryActivationMaximumOne) {
  v1::Value one;
  one.set_double_value(1);
  const BlockEdits edits = Fit("smoothquant", {{"alpha", one}});
  const std::string query = "model.layers.0.self_attn.q_proj";
  const at::Tensor maxima =
      tokens_.at(query).abs().amax(0).div(edits.divisors.at(query));
  EXPECT_LT(maxima.sub(1).abs().max().item<double>(), 1e-5);
}

// The error of weights on Int3()'s grid plus that of 8-bit activations, by
// tokens, at the alphas that are searched.
TEST_F(FittedTest, SmoothQuantsSearchFindsTheBestAlpha) {
  v1::Value yes;
  yes.set_bool_value(true);
  const BlockEdits edits = Fit("smoothquant", {{"search", yes}});
  const auto loss = [&](const models::ScaleFold& fold, const at::Tensor& s) {
    const double step = tokens_[fold.consumers.front()]
                            .abs()
                            .amax(0)
                            .div(s)
                            .max()
                            .item<double>() /
                        127;
    double noise = 0;
    for (const std::string& name : fold.consumers) {
      noise += kTokens * step * step / 12 *
               Weight(name).mul(s).square().sum().item<double>() /
               TokenEnergy(name, Weight(name));
    }
    return TokenLoss(fold, s) + noise;
  };
  for (const models::ScaleFold& fold : folds_.scales) {
    if (!fold.from_norm) continue;
    const at::Tensor own = edits.divisors.at(fold.consumers.front());
    for (const double alpha : {0.0, 0.25, 0.5, 0.75, 1.0}) {
      v1::Value value;
      value.set_double_value(alpha);
      const BlockEdits fixed = Fit("smoothquant", {{"alpha", value}});
      EXPECT_LE(loss(fold, own),
                loss(fold, fixed.divisors.at(fold.consumers.front())) * 1.001)
          << alpha;
    }
  }
}

// By tokens: the squared partial products of each row and group.
at::Tensor GroupErrors(const at::Tensor& error, const at::Tensor& tokens) {
  std::vector<at::Tensor> errors;
  for (int64_t begin = 0; begin < error.size(1); begin += 16) {
    errors.push_back(
        at::mm(error.narrow(1, begin, 16), tokens.narrow(1, begin, 16).t())
            .square()
            .sum(1));
  }
  return at::stack(errors, 1);
}

TEST_F(FittedTest, ClipMakesNoGroupWorseAndSomeBetter) {
  const BlockEdits edits = Fit("clip");
  EXPECT_TRUE(edits.divisors.empty());
  // Queries and keys are left alone.
  EXPECT_EQ(edits.edits.size(), 5u);
  for (const Edit& edit : edits.edits) {
    ASSERT_EQ(edit.kind, EditKind::kClampGroups);
    const std::string name = edit.tensor.substr(0, edit.tensor.rfind('.'));
    const at::Tensor w = Weight(name);
    const at::Tensor clipped =
        ApplyEdit(edit, w.to(at::kDouble)).to(at::kFloat);
    const auto error = [&](const at::Tensor& weight) {
      const auto rounded = formats::RoundToNearest(weight.contiguous(), Int3());
      return GroupErrors(formats::Dequantize(*rounded).sub(w),
                         tokens_.at(name));
    };
    const at::Tensor before = error(w);
    const at::Tensor after = error(clipped);
    EXPECT_TRUE(after.le(before.mul(1 + 1e-4)).all().item<bool>()) << name;
    EXPECT_LT(after.sum().item<double>(), 0.98 * before.sum().item<double>());
  }
}

// MagR's algorithm 1 in float64, with the projection onto the l1 ball of its
// released code: by sorting (Duchi et al., 2008).
at::Tensor TextbookProjection(const at::Tensor& groups, double radius) {
  const at::Tensor magnitude = groups.abs();
  const at::Tensor sorted = std::get<0>(magnitude.sort(1, true));
  const at::Tensor excess = sorted.cumsum(1).sub(radius);
  const at::Tensor rank = at::arange(1, groups.size(1) + 1, at::kDouble);
  const at::Tensor last =
      sorted.mul(rank).gt(excess).to(at::kLong).sum(1, true);
  const at::Tensor theta = excess.gather(1, last.sub(1)).div(last).clamp_min(0);
  return magnitude.sub(theta).clamp_min(0).mul(groups.sign());
}

TEST_F(FittedTest, MagrTakesThePublishedSteps) {
  constexpr double kAlpha = 0.1;
  constexpr int64_t kSteps = 30;
  v1::Value alpha;
  alpha.set_double_value(kAlpha);
  v1::Value steps;
  steps.set_int_value(kSteps);
  const BlockEdits edits =
      Fit("magr", {{"alpha", alpha}, {"iterations", steps}});
  EXPECT_EQ(edits.edits.size(), specs_.size());
  for (const Edit& edit : edits.edits) {
    ASSERT_EQ(edit.kind, EditKind::kReplace);
    const std::string name = edit.tensor.substr(0, edit.tensor.rfind('.'));
    const at::Tensor w = Weight(name).to(at::kDouble);
    const at::Tensor x = tokens_.at(name).to(at::kDouble);
    at::Tensor step = at::mm(x.t(), x);
    step = step.div(std::get<0>(at::linalg_eigh(step)).max());
    const double cut = kAlpha * w.square().mean().sqrt().item<double>();
    at::Tensor moved = w;
    for (int64_t i = 0; i < kSteps; ++i) {
      const at::Tensor ahead = moved.sub(at::mm(moved.sub(w), step));
      const at::Tensor groups = ahead.reshape({-1, 16});
      moved = groups.sub(TextbookProjection(groups.div(cut), 1).mul(cut))
                  .view(w.sizes());
    }
    const at::Tensor off = edit.operand.to(at::kDouble).sub(moved).abs();
    EXPECT_LT(off.max().item<double>(), 1e-3 * w.abs().max().item<double>())
        << name;
  }
}

// What the method promises: the objective falls, and the outputs nearly stay.
TEST_F(FittedTest, MagrMakesMaximaSmallerAndKeepsTheOutput) {
  for (const Edit& edit : Fit("magr").edits) {
    const std::string name = edit.tensor.substr(0, edit.tensor.rfind('.'));
    const at::Tensor w = Weight(name);
    const auto maxima = [](const at::Tensor& weight) {
      return weight.view({-1, 16}).abs().amax(1).sum().item<double>();
    };
    EXPECT_LT(maxima(edit.operand), 0.99 * maxima(w)) << name;
    EXPECT_LT(TokenEnergy(name, edit.operand.sub(w)),
              1e-3 * TokenEnergy(name, w))
        << name;
  }
}

TEST_F(FittedTest, CancelIsSeen) {
  v1::Component component;
  for (const char* id : {"awq", "clip", "magr", "smoothquant"}) {
    component.set_id(id);
    base::CancelToken cancel;
    cancel.Cancel();
    EXPECT_TRUE(absl::IsCancelled(
        (*MakeTransform(component))
            ->FitBlock(ProblemOf(opened_, *block_, folds_, specs_, inputs_),
                       cancel)
            .status()));
  }
}

}  // namespace
}  // namespace quantd::transforms
