// SPDX-License-Identifier: Apache-2.0
// What every rounding method must do, with every number format that the
// catalog lets it be combined with.
#include <ATen/ops/eye.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <limits>

#include "proto/base/error.h"
#include "tests/contract/registered.h"
#include "tests/worker/methods/random_layer.h"
#include "worker/methods/method.h"

namespace quantd::contract {
namespace {

using formats::WeightSpec;
using methods::LinearSolution;
using methods::MakeRandomLayer;
using methods::RandomLayer;

class MethodContract : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    v1::Component component;
    component.set_id(GetParam());
    auto made = methods::MakeMethod(component);
    ASSERT_TRUE(made.ok()) << made.status();
    method_ = *std::move(made);
  }

  absl::StatusOr<LinearSolution> Solve(
      const at::Tensor& weight, const calibration::Statistics& statistics,
      const WeightSpec& spec) const {
    return method_->QuantizeLinear(
        {.weight = weight,
         .statistics = NeedsStatistics() ? &statistics : nullptr,
         .spec = spec},
        cancel_);
  }
  absl::StatusOr<LinearSolution> Solve(const RandomLayer& layer,
                                       const WeightSpec& spec) const {
    return Solve(layer.weight, layer.statistics, spec);
  }
  bool NeedsStatistics() const {
    return method_->needs() != methods::Needs::kNothing;
  }

  std::unique_ptr<methods::Method> method_;
  base::CancelToken cancel_;
};

// OK, DAMPED or RTN_FALLBACK, and a reason where it is not OK.
void ExpectSound(const LinearSolution& solution) {
  EXPECT_TRUE(
      at::isfinite(formats::Dequantize(solution.linear)).all().item<bool>());
  EXPECT_EQ(solution.verdict == v1::VERDICT_OK, solution.reason.empty())
      << solution.reason;
}

TEST_P(MethodContract, GoesWithSomeFormat) {
  EXPECT_FALSE(LegalSpecs(GetParam()).empty());
}

TEST_P(MethodContract, IsNotWorseThanRoundingOnLayersAsModelsHaveThem) {
  for (const WeightSpec& spec : LegalSpecs(GetParam())) {
    // One bit loses about as much as the layer's output, however it is chosen.
    if ((*formats::FindFormat(spec.format))->bits() == 1) continue;
    double own = 0;
    double rounding = 0;
    for (const uint32_t seed : {11, 22, 33}) {
      const RandomLayer layer = MakeRandomLayer(40, 96, 300, seed);
      const auto solution = Solve(layer, spec);
      ASSERT_TRUE(solution.ok()) << LayoutName(spec) << solution.status();
      ExpectSound(*solution);
      EXPECT_EQ(solution->verdict, v1::VERDICT_OK) << LayoutName(spec);
      own += methods::RelativeError(layer.weight, solution->linear,
                                    &layer.statistics);
      const auto rounded = formats::RoundToNearest(layer.weight, spec);
      ASSERT_TRUE(rounded.ok()) << rounded.status();
      rounding +=
          methods::RelativeError(layer.weight, *rounded, &layer.statistics);
    }
    EXPECT_LE(own, rounding * (1 + 1e-6)) << LayoutName(spec);
  }
}

TEST_P(MethodContract, KeepsTheLayoutThatWasAskedFor) {
  const RandomLayer layer = MakeRandomLayer(16, 96, 200, 5);
  for (const WeightSpec& spec : LegalSpecs(GetParam())) {
    const auto solution = Solve(layer, spec);
    ASSERT_TRUE(solution.ok()) << solution.status();
    const auto rounded = *formats::RoundToNearest(layer.weight, spec);
    EXPECT_EQ(solution->linear.format, spec.format);
    EXPECT_EQ(solution->linear.group_size, rounded.group_size)
        << LayoutName(spec);
    EXPECT_EQ(solution->linear.symmetric, spec.symmetric);
    EXPECT_EQ(solution->linear.codes.sizes(), layer.weight.sizes());
    EXPECT_EQ(solution->linear.scales.sizes(), rounded.scales.sizes());
    EXPECT_LE(solution->linear.codes.max().item<int>(),
              (*formats::FindFormat(spec.format))->max_code());
  }
}

TEST_P(MethodContract, TheSameInputsGiveTheSameBitsAndAreLeftAlone) {
  const RandomLayer layer = MakeRandomLayer(24, 96, 200, 6);
  const at::Tensor weight = layer.weight.clone();
  const at::Tensor gram = layer.statistics.gram.clone();
  for (const WeightSpec& spec : LegalSpecs(GetParam())) {
    const auto first = Solve(layer, spec);
    const auto second = Solve(layer, spec);
    ASSERT_TRUE(first.ok() && second.ok()) << LayoutName(spec);
    EXPECT_TRUE(first->linear.codes.equal(second->linear.codes));
    EXPECT_TRUE(first->linear.scales.equal(second->linear.scales));
    EXPECT_EQ(first->damp, second->damp);
  }
  EXPECT_TRUE(layer.weight.equal(weight));
  EXPECT_TRUE(layer.statistics.gram.equal(gram));
}

TEST_P(MethodContract, CancelIsSeen) {
  const RandomLayer layer = MakeRandomLayer(16, 96, 200, 7);
  const WeightSpec spec = LegalSpecs(GetParam()).front();
  cancel_.Cancel();
  EXPECT_EQ(Solve(layer, spec).status().code(), absl::StatusCode::kCancelled);
}

TEST_P(MethodContract, ItEndsAtWhicheverLookIsTheFirstAfterCancel) {
  const RandomLayer layer = MakeRandomLayer(48, 96, 200, 14);
  const std::vector<WeightSpec> specs = LegalSpecs(GetParam());
  for (const WeightSpec& spec : {specs.front(), specs.back()}) {
    const int64_t before = cancel_.looks();
    ASSERT_TRUE(Solve(layer, spec).ok());
    const int64_t looks = cancel_.looks() - before;
    ASSERT_GT(looks, 0) << LayoutName(spec);
    for (const int64_t look : {int64_t{0}, int64_t{1}, looks / 2, looks - 1}) {
      if (look >= looks) continue;
      cancel_.CancelAfter(cancel_.looks() + look);
      EXPECT_EQ(Solve(layer, spec).status().code(),
                absl::StatusCode::kCancelled)
          << LayoutName(spec) << ", look " << look << " of " << looks;
    }
    cancel_.CancelAfter(std::numeric_limits<int64_t>::max());
  }
}

TEST_P(MethodContract, UnusableStatisticsEndInRoundingWithAVerdict) {
  if (!NeedsStatistics()) GTEST_SKIP() << "looks at no statistics";
  const RandomLayer layer = MakeRandomLayer(16, 96, 200, 8);
  const WeightSpec spec = LegalSpecs(GetParam()).front();
  calibration::Statistics no_number = layer.statistics;
  no_number.gram = no_number.gram.clone();
  no_number.gram[3][5] = std::numeric_limits<float>::quiet_NaN();
  calibration::Statistics other_layer = layer.statistics;
  other_layer.gram = at::eye(95);
  calibration::Statistics no_token = layer.statistics;
  no_token.tokens = 0;
  const calibration::Statistics nothing;
  const auto rounded = *formats::RoundToNearest(layer.weight, spec);
  for (const calibration::Statistics& statistics :
       {no_number, other_layer, no_token, nothing}) {
    const auto solution = Solve(layer.weight, statistics, spec);
    ASSERT_TRUE(solution.ok()) << solution.status();
    EXPECT_EQ(solution->verdict, v1::VERDICT_RTN_FALLBACK);
    EXPECT_FALSE(solution->reason.empty());
    EXPECT_TRUE(solution->linear.codes.equal(rounded.codes));
    EXPECT_TRUE(solution->linear.scales.equal(rounded.scales));
  }
}

TEST_P(MethodContract, InputsThatAreAlwaysZeroDoNoHarm) {
  RandomLayer layer = MakeRandomLayer(24, 96, 200, 9);
  for (const int64_t dead : {0, 31, 32, 95})
    layer.input.select(1, dead).zero_();
  layer.statistics.gram = at::mm(layer.input.t(), layer.input);
  for (const WeightSpec& spec : LegalSpecs(GetParam())) {
    const auto solution = Solve(layer, spec);
    ASSERT_TRUE(solution.ok()) << solution.status();
    ExpectSound(*solution);
    // Outputs are what such a method has no eye for: one layer's may come out
    // better or worse than rounding's, dead inputs or not.
    if (!NeedsStatistics()) continue;
    const auto rounded = *formats::RoundToNearest(layer.weight, spec);
    EXPECT_LE(
        methods::RelativeError(layer.weight, solution->linear,
                               &layer.statistics),
        methods::RelativeError(layer.weight, rounded, &layer.statistics) * 1.05)
        << LayoutName(spec);
  }
}

TEST_P(MethodContract, FewerTokensThanInputsAreEnoughToGoOn) {
  const RandomLayer layer = MakeRandomLayer(24, 96, 8, 10);
  for (const WeightSpec& spec : LegalSpecs(GetParam())) {
    const auto solution = Solve(layer, spec);
    ASSERT_TRUE(solution.ok()) << solution.status();
    ExpectSound(*solution);
  }
}

TEST_P(MethodContract, ShapesOfOneRowOrOneColumnWork) {
  for (const auto& [out, in] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 96}, {5, 1}, {1, 1}}) {
    const RandomLayer layer = MakeRandomLayer(out, in, 50, 11);
    for (const WeightSpec& spec : LegalSpecs(GetParam())) {
      if (!formats::RoundToNearest(layer.weight, spec).ok()) continue;
      const auto solution = Solve(layer, spec);
      ASSERT_TRUE(solution.ok()) << LayoutName(spec) << solution.status();
      ExpectSound(*solution);
    }
  }
}

TEST_P(MethodContract, AWeightOfZerosStaysZero) {
  RandomLayer layer = MakeRandomLayer(8, 96, 200, 12);
  layer.weight = at::zeros({8, 96});
  for (const WeightSpec& spec : LegalSpecs(GetParam())) {
    const auto solution = Solve(layer, spec);
    ASSERT_TRUE(solution.ok()) << solution.status();
    EXPECT_TRUE(formats::Dequantize(solution->linear).eq(0).all().item<bool>())
        << LayoutName(spec);
  }
}

TEST_P(MethodContract, WeightsThatAreNotFiniteAreRefused) {
  RandomLayer layer = MakeRandomLayer(8, 96, 200, 13);
  layer.weight[7][95] = std::numeric_limits<float>::infinity();
  const absl::Status status =
      Solve(layer, LegalSpecs(GetParam()).front()).status();
  EXPECT_EQ(base::ErrorReason(status), "NON_FINITE_WEIGHT") << status;
}

INSTANTIATE_TEST_SUITE_P(Registered, MethodContract,
                         testing::ValuesIn(Ids(v1::SEAM_METHOD)),
                         [](const auto& test) { return TestName(test.param); });

}  // namespace
}  // namespace quantd::contract
