// SPDX-License-Identifier: Apache-2.0
// Learned rounding of single layers: the variables of AdaRound and SignRound,
// and the methods that use them.
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/where.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "tests/worker/methods/random_layer.h"
#include "worker/methods/column_groups.h"
#include "worker/methods/method.h"
#include "worker/methods/signed_rounding.h"
#include "worker/methods/soft_rounding.h"

namespace quantd::methods {
namespace {

formats::WeightSpec Spec(const std::string& format, bool symmetric,
                         int64_t group_size = 32) {
  return {.format = format,
          .group_size = group_size,
          .symmetric = symmetric,
          .scale_dtype = "float32"};
}

std::unique_ptr<Method> Make(const std::string& id,
                             const std::map<std::string, int64_t>& whole = {}) {
  v1::Component component;
  component.set_id(id);
  for (const auto& [name, value] : whole) {
    (*component.mutable_params())[name].set_int_value(value);
  }
  auto method = MakeMethod(component);
  EXPECT_TRUE(method.ok()) << method.status();
  return *std::move(method);
}

LinearSolution Solve(const Method& method, const RandomLayer& layer,
                     const formats::WeightSpec& spec) {
  base::CancelToken cancel;
  auto solution = method.QuantizeLinear(
      {.weight = layer.weight, .statistics = &layer.statistics, .spec = spec},
      cancel);
  EXPECT_TRUE(solution.ok()) << solution.status();
  return *std::move(solution);
}

double Error(const RandomLayer& layer, const formats::QuantizedLinear& linear) {
  return RelativeError(layer.weight, linear, &layer.statistics);
}

// One row of every kind of grid: with and without zero points, a short group.
class GridTest : public testing::TestWithParam<std::tuple<bool, int64_t>> {
 protected:
  const bool symmetric_ = std::get<0>(GetParam());
  const formats::WeightSpec spec_ =
      Spec("int3", symmetric_, std::get<1>(GetParam()));
  const RandomLayer layer_ = MakeRandomLayer(12, 96, 300, 41);
  const formats::QuantizedLinear rounded_ =
      *formats::RoundToNearest(layer_.weight, spec_);
  const at::Tensor exact_ = layer_.weight.to(at::kDouble);
  const ColumnGroups groups_{96, rounded_.group_size};

  SoftRounding Soft(const SoftRoundingOptions& options) const {
    return SoftRounding({.weight = exact_,
                         .rounded = rounded_,
                         .spec = spec_,
                         .weights_in_loss = 96},
                        7, options);
  }
  SignedRounding Signed(const at::Tensor& weight,
                        const SignedRoundingOptions& options) const {
    return SignedRounding({.weight = weight,
                           .rounded = rounded_,
                           .spec = spec_,
                           .weights_in_loss = 96},
                          **formats::FindFormat("int3"), options);
  }
  at::Tensor Scale() const {
    return groups_.Spread(rounded_.scales.to(at::kDouble));
  }
  at::Tensor Zero() const {
    return groups_.Spread(rounded_.zeros.to(at::kDouble));
  }
};

TEST_P(GridTest, SoftWeightsBeginAsTheFloatOnesCutToTheGrid) {
  SoftRounding soft = Soft({});
  const at::Tensor lowest = Zero().neg().mul(Scale());
  const at::Tensor highest = Zero().neg().add(7).mul(Scale());
  const at::Tensor cut = at::minimum(at::maximum(exact_, lowest), highest);
  EXPECT_TRUE(at::allclose(*soft.Weight(), cut, 1e-12, 1e-9));
}

TEST_P(GridTest, SoftCodesAreTheNeighboursOfTheWeight) {
  SoftRounding soft = Soft({});
  for (int64_t step = 0; step < 50; ++step) {
    ASSERT_TRUE(soft.Weight().ok());
    soft.Step(RandomNormal(12, 96, step).to(at::kDouble), step);
  }
  const at::Tensor codes = soft.Finish()->codes.to(at::kDouble);
  const at::Tensor below = exact_.div(Scale()).add(Zero()).floor();
  const at::Tensor down = codes.eq(below.clamp(0, 7));
  const at::Tensor up = codes.eq(below.add(1).clamp(0, 7));
  EXPECT_TRUE(down.logical_or(up).all().item<bool>());
  EXPECT_FALSE(down.all().item<bool>());
}

// The objective in float64, as the header has it.
TEST_P(GridTest, SoftGradientIsThatOfTheObjective) {
  SoftRoundingOptions options;
  options.iterations = 10;
  options.lambda = 0.7;
  constexpr int64_t kStep = 6;
  SoftRounding soft = Soft(options);
  const at::Tensor gram = layer_.statistics.gram.to(at::kDouble).div(300);
  const auto objective = [&] {
    const at::Tensor error = soft.Weight()->sub(exact_);
    const double loss =
        at::mm(error, gram).mul(error).sum().item<double>() * 96;
    return loss + soft.Penalty(kStep);
  };
  objective();
  const at::Tensor error = soft.Weight()->sub(exact_);
  const at::Tensor gradient =
      soft.Gradient(at::mm(error, gram).mul(2), kStep).clone();
  double largest = gradient.abs().max().item<double>();
  for (int64_t i = 0; i < 60; ++i) {
    const int64_t row = i % 12;
    const int64_t column = (i * 37) % 96;
    constexpr double kSmall = 1e-5;
    at::Tensor v = soft.variables()[row][column];
    v.add_(kSmall);
    const double above = objective();
    v.sub_(2 * kSmall);
    const double below = objective();
    v.add_(kSmall);
    EXPECT_NEAR((above - below) / (2 * kSmall),
                gradient[row][column].item<double>(), 1e-5 * largest)
        << row << " " << column;
  }
}

TEST(SoftRoundingTest, TheExponentFallsFromWarmupToTheEnd) {
  const RandomLayer layer = MakeRandomLayer(2, 32, 40, 42);
  const auto spec = Spec("int4", true);
  const auto rounded = *formats::RoundToNearest(layer.weight, spec);
  for (const bool cosine : {true, false}) {
    SoftRoundingOptions options;
    options.iterations = 101;
    options.warmup = 0.2;
    options.cosine = cosine;
    const SoftRounding soft({.weight = layer.weight,
                             .rounded = rounded,
                             .spec = spec,
                             .weights_in_loss = 32},
                            15, options);
    EXPECT_EQ(soft.BetaAt(20), 0);
    EXPECT_GT(soft.BetaAt(21), 19.5);
    EXPECT_NEAR(soft.BetaAt(100), 2, 1e-9);
    for (int64_t step = 22; step <= 100; ++step) {
      EXPECT_LT(soft.BetaAt(step), soft.BetaAt(step - 1));
    }
  }
}

TEST_P(GridTest, SignedVariablesBeginAsPlainRounding) {
  for (const double minmax : {0.0, 0.1}) {
    SignedRounding variables = Signed(
        layer_.weight, {.learning_rate = 0.1, .minmax_learning_rate = minmax});
    EXPECT_TRUE(at::equal(*variables.Weight(), formats::Dequantize(rounded_)));
    EXPECT_TRUE(at::equal(variables.Finish()->codes, rounded_.codes));
    EXPECT_TRUE(at::equal(variables.Finish()->scales, rounded_.scales));
    EXPECT_TRUE(at::equal(variables.Finish()->zeros, rounded_.zeros));
  }
}

at::Tensor StraightThrough(const at::Tensor& x) {
  return x.add(x.round().sub(x).detach());
}

// Autograd over the published formula, in float64.
TEST_P(GridTest, SignedGradientsAreThoseOfAutogradWithRoundingAsIdentity) {
  SignedRounding variables = Signed(
      exact_,
      {.iterations = 20, .learning_rate = 0.05, .minmax_learning_rate = 0.04});
  for (int64_t step = 0; step < 6; ++step) {
    ASSERT_TRUE(variables.Weight().ok());
    variables.Step(RandomNormal(12, 96, step).to(at::kDouble), step);
  }
  ASSERT_TRUE(variables.Weight().ok());
  const at::Tensor outer = RandomNormal(12, 96, 99).to(at::kDouble);

  const auto leaf = [](const at::Tensor& x) {
    return x.detach().clone().requires_grad_(true);
  };
  const at::Tensor offset = leaf(variables.variables().offset);
  const at::Tensor low = leaf(variables.variables().low);
  const at::Tensor high = leaf(variables.variables().high);
  const at::Tensor bottom = groups_.MinWithZero(exact_).mul(low);
  const at::Tensor top = groups_.MaxWithZero(exact_).mul(high);
  at::Tensor scale = top.sub(bottom).div(7);
  at::Tensor zero = StraightThrough(bottom.neg().div(scale));
  if (symmetric_) {
    const at::Tensor lower = bottom.neg().ge(top);
    scale = at::where(lower, bottom.neg(), top).mul(2.0 / 7);
    zero = at::full({12, scale.size(1)}, 4, exact_.options());
  }
  const at::Tensor s = groups_.Spread(scale);
  const at::Tensor z = groups_.Spread(zero);
  const at::Tensor code =
      StraightThrough(exact_.div(s).add(offset))
          .add(z)
          // The last bits of x + (round(x) - x) are not to count.
          .clamp(-1e-9, 7 + 1e-9);
  const at::Tensor weight = code.sub(z).mul(s);
  EXPECT_TRUE(at::allclose(weight, *variables.Weight(), 1e-5, 1e-7));
  weight.backward(outer);

  const SignedRounding::Variables by = variables.Gradients(outer);
  EXPECT_TRUE(at::allclose(by.offset, offset.grad(), 1e-4, 1e-6));
  EXPECT_TRUE(at::allclose(by.low, low.grad(), 1e-4, 1e-6));
  EXPECT_TRUE(at::allclose(by.high, high.grad(), 1e-4, 1e-6));
}

TEST_P(GridTest, OffsetsTravelHalfACodeAtMost) {
  constexpr int64_t kSteps = 40;
  SignedRounding variables =
      Signed(layer_.weight, {.iterations = kSteps,
                             .learning_rate = 1.0 / kSteps,
                             .minmax_learning_rate = 1.0 / kSteps});
  const at::Tensor gradient = RandomNormal(12, 96, 3);
  for (int64_t step = 0; step < kSteps; ++step) {
    ASSERT_TRUE(variables.Weight().ok());
    variables.Step(gradient, step);
  }
  const double bound = (kSteps + 1.0) / (2 * kSteps);
  const auto& now = variables.variables();
  EXPECT_LE(now.offset.abs().max().item<double>(), bound + 1e-6);
  EXPECT_GT(now.offset.abs().max().item<double>(), 0.4);
  for (const at::Tensor& end : {now.low, now.high}) {
    EXPECT_GE(end.min().item<double>(), 0);
    EXPECT_LE(end.max().item<double>(), 1);
  }
}

TEST_P(GridTest, RowsGoBackToTheVariablesOfTheirLeastLoss) {
  SignedRounding variables = Signed(
      layer_.weight,
      {.iterations = 4, .learning_rate = 0.3, .minmax_learning_rate = 0.1});
  ASSERT_TRUE(variables.Weight().ok());
  variables.Judge(at::full({12}, 1.0));
  variables.Step(RandomNormal(12, 96, 3), 0);
  const at::Tensor moved = *variables.Weight();
  at::Tensor losses = at::full({12}, 2.0);
  losses[5] = 0.5;
  variables.Judge(losses);
  const at::Tensor finished = formats::Dequantize(*variables.Finish());
  const at::Tensor plain = formats::Dequantize(rounded_);
  EXPECT_TRUE(at::equal(finished[5], moved[5]));
  EXPECT_FALSE(at::equal(finished[5], plain[5]));
  EXPECT_TRUE(at::equal(finished[4], plain[4]));
}

// float32 goes through one pass of its own, Gradients operator by operator.
TEST_P(GridTest, SignedStepsFollowTheGradients) {
  SignedRounding variables = Signed(
      layer_.weight,
      {.iterations = 20, .learning_rate = 0.05, .minmax_learning_rate = 0.04});
  for (int64_t step = 0; step < 12; ++step) {
    ASSERT_TRUE(variables.Weight().ok());
    const at::Tensor gradient = RandomNormal(12, 96, step);
    const SignedRounding::Variables by = variables.Gradients(gradient);
    const at::Tensor offset = variables.variables().offset.clone();
    const at::Tensor low = variables.variables().low;
    const at::Tensor high = variables.variables().high;
    variables.Step(gradient, step);
    const double left = 1 - static_cast<double>(step) / 20;
    const auto& now = variables.variables();
    EXPECT_TRUE(at::allclose(
        now.offset, offset.sub(by.offset.sign(), 0.05 * left), 0, 1e-7));
    EXPECT_TRUE(
        at::equal(now.low, low.sub(by.low.sign(), 0.04 * left).clamp_(0, 1)));
    EXPECT_TRUE(at::equal(now.high,
                          high.sub(by.high.sign(), 0.04 * left).clamp_(0, 1)));
  }
}

// How many numbers of two tensors differ by more than `most`.
int64_t Apart(const at::Tensor& a, const at::Tensor& b, double most) {
  return a.sub(b).abs().gt(most).sum().item<int64_t>();
}

TEST_P(GridTest, SoftPassesDoWhatTheOperatorsDo) {
  const SoftRoundingOptions options{
      .iterations = 12, .learning_rate = 0.05, .lambda = 0.7, .warmup = 0.4};
  SoftRounding exact = Soft(options);
  SoftRounding fused({.weight = layer_.weight,
                      .rounded = rounded_,
                      .spec = spec_,
                      .weights_in_loss = 96},
                     7, options);
  const int64_t scales = symmetric_ ? rounded_.scales.numel() : 0;
  for (int64_t step = 0; step < 12; ++step) {
    EXPECT_LE(Apart(fused.Weight()->to(at::kDouble), *exact.Weight(), 1e-4),
              scales)
        << step;
    const at::Tensor gradient = RandomNormal(12, 96, step);
    fused.Step(gradient, step);
    exact.Step(gradient.to(at::kDouble), step);
    // The largest weight of a symmetric group lies beyond the grid and in the
    // middle between two codes, where the last bits alone pull at it.
    EXPECT_LE(Apart(fused.variables().to(at::kDouble), exact.variables(), 1e-3),
              scales)
        << step;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Grids, GridTest,
    testing::Combine(testing::Bool(), testing::Values(32, 40, -1)),
    [](const auto& test) {
      const int64_t group = std::get<1>(test.param);
      return absl::StrCat(std::get<0>(test.param) ? "Symmetric" : "Asymmetric",
                          group < 0 ? "Row" : absl::StrCat("G", group));
    });

// The methods that learn, on single layers.
class LearnedTest : public testing::TestWithParam<const char*> {};

TEST_P(LearnedTest, WithoutIterationsItIsPlainRounding) {
  const RandomLayer layer = MakeRandomLayer(16, 96, 200, 43);
  for (const bool symmetric : {true, false}) {
    const auto spec = Spec("int3", symmetric);
    const auto solution =
        Solve(*Make(GetParam(), {{"iterations", 0}}), layer, spec);
    const auto rounded = *formats::RoundToNearest(layer.weight, spec);
    EXPECT_TRUE(at::equal(solution.linear.codes, rounded.codes));
    EXPECT_TRUE(at::equal(solution.linear.scales, rounded.scales));
  }
}

TEST_P(LearnedTest, LowersTheErrorOfFewBitsClearly) {
  for (const bool symmetric : {true, false}) {
    double own = 0;
    double plain = 0;
    double gptq = 0;
    for (const uint32_t seed : {51, 52, 53}) {
      const RandomLayer layer = MakeRandomLayer(40, 96, 300, seed);
      const auto spec = Spec("int3", symmetric);
      own += Error(layer, Solve(*Make(GetParam()), layer, spec).linear);
      gptq += Error(layer, Solve(*Make("gptq"), layer, spec).linear);
      plain += Error(layer, *formats::RoundToNearest(layer.weight, spec));
    }
    EXPECT_LT(own, 0.75 * plain);
    RecordProperty(
        symmetric ? "symmetric" : "asymmetric",
        absl::StrCat("of rtn ", own / plain, ", of gptq ", own / gptq));
  }
}

TEST_P(LearnedTest, NoRowIsWorseThanRounded) {
  const RandomLayer layer = MakeRandomLayer(40, 96, 300, 54);
  const auto spec = Spec("int8", true);
  const auto solution =
      Solve(*Make(GetParam(), {{"iterations", 7}}), layer, spec);
  const auto rounded = *formats::RoundToNearest(layer.weight, spec);
  const auto losses = [&](const formats::QuantizedLinear& linear) {
    const at::Tensor error = formats::Dequantize(linear).sub(layer.weight);
    return at::mm(error, layer.statistics.gram).mul(error).sum(1);
  };
  EXPECT_TRUE(losses(solution.linear)
                  .le(losses(rounded).mul(1 + 1e-5))
                  .all()
                  .item<bool>());
}

// The Gram matrix in other units is the same problem.
TEST_P(LearnedTest, TheScaleOfTheInputDoesNotMatter) {
  RandomLayer layer = MakeRandomLayer(16, 96, 200, 55);
  const auto spec = Spec("int3", true);
  const auto method = Make(GetParam(), {{"iterations", 60}});
  const auto solution = Solve(*method, layer, spec);
  layer.statistics.gram = layer.statistics.gram.mul(1 << 20);
  EXPECT_TRUE(at::equal(solution.linear.codes,
                        Solve(*method, layer, spec).linear.codes));
}

TEST_P(LearnedTest, TellsItsLossAfterEveryStep) {
  const RandomLayer layer = MakeRandomLayer(16, 96, 200, 56);
  std::vector<double> losses;
  int64_t last = -1;
  base::CancelToken cancel;
  const auto solution =
      Make(GetParam(), {{"iterations", 30}})
          ->QuantizeLinear({.weight = layer.weight,
                            .statistics = &layer.statistics,
                            .spec = Spec("int3", true),
                            .observe =
                                [&](int64_t step, int64_t steps, double loss) {
                                  EXPECT_EQ(steps, 30);
                                  EXPECT_EQ(step, last + 1);
                                  last = step;
                                  losses.push_back(loss);
                                }},
                           cancel);
  ASSERT_TRUE(solution.ok());
  EXPECT_EQ(last, 30);
  for (const double loss : losses) EXPECT_TRUE(std::isfinite(loss));
}

INSTANTIATE_TEST_SUITE_P(Methods, LearnedTest,
                         testing::Values("adaround", "autoround", "brecq"),
                         [](const auto& test) {
                           return std::string(test.param);
                         });

}  // namespace
}  // namespace quantd::methods
