// SPDX-License-Identifier: Apache-2.0
// What GPTQ does where the numbers are bad.
#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "proto/base/error.h"
#include "tests/worker/methods/random_layer.h"
#include "worker/methods/method.h"

namespace quantd::methods {
namespace {

std::unique_ptr<Method> Make(const std::string& id, double damp_increment) {
  v1::Component component;
  component.set_id(id);
  if (id == "gptq") {
    v1::Value value;
    value.set_double_value(damp_increment);
    (*component.mutable_params())["damp_increment"] = value;
  }
  auto method = MakeMethod(component);
  EXPECT_TRUE(method.ok()) << method.status();
  return *std::move(method);
}

absl::StatusOr<LinearSolution> Gptq(const at::Tensor& weight,
                                    const calibration::Statistics* statistics,
                                    bool symmetric = true) {
  return Make("gptq", 0.01)
      ->QuantizeLinear({weight, statistics, {"int4", 32, symmetric}}, {});
}

formats::QuantizedLinear Rtn(const at::Tensor& weight) {
  return Make("rtn", 0)
      ->QuantizeLinear({weight, nullptr, {"int4", 32, true}}, {})
      ->linear;
}

calibration::Statistics StatisticsOf(const at::Tensor& input) {
  return {at::mm(input.t(), input), input.size(0)};
}

void ExpectFallback(const absl::StatusOr<LinearSolution>& solution,
                    const at::Tensor& weight) {
  ASSERT_TRUE(solution.ok()) << solution.status();
  EXPECT_EQ(solution->verdict, v1::VERDICT_RTN_FALLBACK);
  EXPECT_FALSE(solution->reason.empty());
  EXPECT_TRUE(at::equal(solution->linear.codes, Rtn(weight).codes));
}

TEST(GptqEdgesTest, DeadInputsGetWeightsOfZero) {
  for (const bool symmetric : {true, false}) {
    RandomLayer layer = MakeRandomLayer(16, 64, 200, 1);
    layer.input.select(1, 5).zero_();
    layer.input.select(1, 63).zero_();
    // A whole group of dead inputs.
    layer.input.narrow(1, 32, 31).zero_();
    const auto statistics = StatisticsOf(layer.input);
    const auto solution = Gptq(layer.weight, &statistics, symmetric);
    ASSERT_TRUE(solution.ok());
    EXPECT_EQ(solution->verdict, v1::VERDICT_OK) << solution->reason;
    const at::Tensor value = formats::Dequantize(solution->linear);
    EXPECT_EQ(value.select(1, 5).abs().max().item<float>(), 0);
    EXPECT_EQ(value.narrow(1, 32, 32).abs().max().item<float>(), 0);
    EXPECT_GT(value.select(1, 6).abs().max().item<float>(), 0);
  }
}

TEST(GptqEdgesTest, SingularHessianIsFactorizedWithDamping) {
  const at::Tensor weight = RandomNormal(8, 64, 3);
  const auto statistics = StatisticsOf(RandomNormal(3, 64, 4));
  const auto solution = Gptq(weight, &statistics);
  ASSERT_TRUE(solution.ok());
  EXPECT_EQ(solution->verdict, v1::VERDICT_OK) << solution->reason;
  EXPECT_LT(RelativeError(weight, solution->linear, &statistics),
            RelativeError(weight, Rtn(weight), &statistics));
}

TEST(GptqEdgesTest, OneTokenIsEnough) {
  const at::Tensor weight = RandomNormal(8, 64, 3);
  const auto statistics = StatisticsOf(RandomNormal(1, 64, 5));
  const auto solution = Gptq(weight, &statistics);
  ASSERT_TRUE(solution.ok());
  EXPECT_EQ(solution->verdict, v1::VERDICT_OK) << solution->reason;
  EXPECT_LT(RelativeError(weight, solution->linear, &statistics),
            RelativeError(weight, Rtn(weight), &statistics));
}

// The least eigenvalue is -0.205 of the mean diagonal: 0.21 is the first step
// that lifts the matrix above zero.
at::Tensor IndefiniteGram(int64_t n) {
  at::Tensor gram = at::zeros({n, n});
  gram.diagonal().fill_(1);
  gram[0][1] = 1.205f;
  gram[1][0] = 1.205f;
  return gram;
}

TEST(GptqEdgesTest, DampingGrowsUntilTheHessianCanBeFactorized) {
  const at::Tensor weight = RandomNormal(8, 64, 3);
  const calibration::Statistics statistics{IndefiniteGram(64), 2};
  const auto solution = Gptq(weight, &statistics);
  ASSERT_TRUE(solution.ok());
  EXPECT_EQ(solution->verdict, v1::VERDICT_DAMPED);
  EXPECT_NEAR(solution->damp, 0.21, 1e-9);
  EXPECT_THAT(solution->reason, testing::HasSubstr("0.21"));
}

TEST(GptqEdgesTest, GivesUpAtOnceWhereDampingMayNotGrow) {
  const at::Tensor weight = RandomNormal(8, 64, 3);
  const calibration::Statistics statistics{IndefiniteGram(64), 2};
  ExpectFallback(Make("gptq", 0)->QuantizeLinear(
                     {weight, &statistics, {"int4", 32, true}}, {}),
                 weight);
}

TEST(GptqEdgesTest, StatisticsThatCannotBeUsedEndInRounding) {
  const at::Tensor weight = RandomNormal(8, 64, 3);
  ExpectFallback(Gptq(weight, nullptr), weight);
  auto statistics = StatisticsOf(RandomNormal(100, 64, 4));
  statistics.tokens = 0;
  ExpectFallback(Gptq(weight, &statistics), weight);
  statistics.tokens = 100;
  statistics.gram[3][4] = std::numeric_limits<float>::quiet_NaN();
  ExpectFallback(Gptq(weight, &statistics), weight);
  statistics.gram[3][4] = std::numeric_limits<float>::infinity();
  ExpectFallback(Gptq(weight, &statistics), weight);
  statistics.gram = at::zeros({64, 64}).sub_(1);
  ExpectFallback(Gptq(weight, &statistics), weight);
  statistics.gram = at::zeros({32, 32});
  ExpectFallback(Gptq(weight, &statistics), weight);
}

TEST(GptqEdgesTest, WeightsThatAreNotFiniteAreRefused) {
  const auto statistics = StatisticsOf(RandomNormal(100, 64, 4));
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          -std::numeric_limits<float>::infinity()}) {
    at::Tensor weight = RandomNormal(8, 64, 3);
    weight[7][63] = bad;
    for (const char* id : {"gptq", "rtn"}) {
      const auto solution = Make(id, 0.01)->QuantizeLinear(
          {weight, &statistics, {"int4", 32, true}}, {});
      EXPECT_EQ(solution.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_EQ(base::ErrorReason(solution.status()), "NON_FINITE_WEIGHT");
    }
  }
}

TEST(GptqEdgesTest, HugeOutliersStayFinite) {
  RandomLayer layer = MakeRandomLayer(16, 64, 200, 8);
  layer.weight[0][0] = 1e30f;
  layer.weight[1][1] = -3e38f;
  layer.weight[2][2] = 1e-30f;
  const auto solution = Gptq(layer.weight, &layer.statistics);
  ASSERT_TRUE(solution.ok());
  EXPECT_TRUE(at::isfinite(solution->linear.scales).all().item<bool>());
  EXPECT_TRUE(solution->linear.scales.gt(0).all().item<bool>());
  EXPECT_TRUE(
      at::isfinite(formats::Dequantize(solution->linear)).all().item<bool>());
}

TEST(GptqEdgesTest, AllWeightsZeroStayZero) {
  const auto statistics = StatisticsOf(RandomNormal(100, 64, 4));
  const auto solution = Gptq(at::zeros({4, 64}), &statistics);
  ASSERT_TRUE(solution.ok());
  EXPECT_EQ(formats::Dequantize(solution->linear).abs().max().item<float>(), 0);
}

TEST(GptqEdgesTest, CancelledBeforeItStarts) {
  const RandomLayer layer = MakeRandomLayer(8, 64, 100, 1);
  base::CancelToken cancel;
  cancel.Cancel();
  for (const char* id : {"gptq", "rtn"}) {
    const auto solution = Make(id, 0.01)->QuantizeLinear(
        {layer.weight, &layer.statistics, {"int4", 32, true}}, cancel);
    EXPECT_EQ(solution.status().code(), absl::StatusCode::kCancelled);
  }
}

base::CancelToken* token_to_cancel = nullptr;
int column_calls = 0;

TEST(GptqEdgesTest, CancelledInTheMiddleOfALayer) {
  const RandomLayer layer = MakeRandomLayer(8, 1600, 100, 1);
  base::CancelToken cancel;
  token_to_cancel = &cancel;
  const auto handle = at::addGlobalCallback(
      at::RecordFunctionCallback([](const at::RecordFunction& call)
                                     -> std::unique_ptr<at::ObserverContext> {
        if (strcmp(call.name(), "quantd::gptq_columns") == 0) {
          ++column_calls;
          token_to_cancel->Cancel();
        }
        return nullptr;
      }));
  const auto solution =
      Make("gptq", 0.01)
          ->QuantizeLinear(
              {layer.weight, &layer.statistics, {"int4", 32, true}}, cancel);
  at::removeCallback(handle);
  EXPECT_EQ(solution.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(column_calls, 1);
}

}  // namespace
}  // namespace quantd::methods
