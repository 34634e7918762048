// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "proto/base/error.h"
#include "tests/worker/methods/random_layer.h"
#include "tests/worker/methods/textbook_gptq.h"
#include "worker/methods/method.h"

namespace quantd::methods {
namespace {

v1::Value Text(const std::string& value) {
  v1::Value result;
  result.set_string_value(value);
  return result;
}
v1::Value Number(double value) {
  v1::Value result;
  result.set_double_value(value);
  return result;
}
v1::Value Whole(int64_t value) {
  v1::Value result;
  result.set_int_value(value);
  return result;
}

using Settings = std::vector<std::pair<std::string, v1::Value>>;

absl::StatusOr<LinearSolution> Solve(const at::Tensor& weight,
                                     const calibration::Statistics* statistics,
                                     const formats::WeightSpec& spec,
                                     const Settings& settings = {},
                                     const std::string& id = "gptq") {
  v1::Component component;
  component.set_id(id);
  for (const auto& [name, value] : settings) {
    (*component.mutable_params())[name] = value;
  }
  auto method = MakeMethod(component);
  if (!method.ok()) return method.status();
  return (*method)->QuantizeLinear({weight, statistics, spec}, {});
}

formats::WeightSpec Spec(const std::string& format, int64_t group_size,
                         bool symmetric, const std::string& scale = "float16") {
  return {format, group_size, symmetric, scale};
}

// The column at which the two first differ in `row`, in processing order; -1
// where they never do. Later columns of a row answer to the difference.
int64_t FirstDifference(const at::Tensor& codes, const TextbookResult& truth,
                        const std::vector<int64_t>& order, int64_t row) {
  const int64_t in = codes.size(1);
  for (int64_t c : order) {
    const int64_t at = row * in + c;
    if (codes.const_data_ptr<uint8_t>()[at] !=
        truth.codes.const_data_ptr<int64_t>()[at]) {
      return c;
    }
  }
  return -1;
}

std::vector<int64_t> ProcessingOrder(const RandomLayer& layer, bool act_order) {
  const int64_t in = layer.weight.size(1);
  std::vector<int64_t> order(in);
  for (int64_t i = 0; i < in; ++i) order[i] = i;
  if (!act_order) return order;
  const at::Tensor diagonal =
      DampedHessian(layer.statistics.gram, layer.statistics.tokens, 0)
          .diagonal()
          .contiguous();
  const double* d = diagonal.const_data_ptr<double>();
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return d[a] > d[b]; });
  return order;
}

// Every first difference of a row is a tie that float32 cannot resolve: of the
// code, or of the rounding of its group's scale to float16.
void ExpectEqualUpToTies(const formats::QuantizedLinear& linear,
                         const TextbookResult& truth,
                         const std::vector<int64_t>& order) {
  constexpr double kTie = 2e-4;  // In steps of the grid.
  constexpr double kHalfSpacing = 1.0 / 1024;
  int64_t rows_that_differ = 0;
  for (int64_t row = 0; row < linear.out_features; ++row) {
    const int64_t c = FirstDifference(linear.codes, truth, order, row);
    if (c < 0) continue;
    ++rows_that_differ;
    const int64_t group = truth.group_index[c];
    const double scale = linear.scales[row][group].item<float>();
    const double wanted = truth.scales[row][group].item<double>();
    if (scale != wanted) {
      EXPECT_NEAR(scale, wanted, 1.01 * kHalfSpacing * wanted);
      continue;
    }
    EXPECT_LT(truth.margin[row][c].item<double>(), kTie)
        << "row " << row << ", column " << c;
  }
  EXPECT_LE(rows_that_differ, linear.out_features / 8 + 1);
}

struct Case {
  int64_t out, in, group_size;
  const char* format;
  int max_code;
  bool symmetric;
  const char* act_order;
  bool static_groups;
};

class TextbookTest : public testing::TestWithParam<Case> {};

TEST_P(TextbookTest, GivesTheSameCodes) {
  const Case& c = GetParam();
  const RandomLayer layer = MakeRandomLayer(c.out, c.in, 3 * c.in, 7);
  v1::Value fixed;
  fixed.set_bool_value(c.static_groups);
  const auto solution =
      Solve(layer.weight, &layer.statistics,
            Spec(c.format, c.group_size, c.symmetric),
            {{"act_order", Text(c.act_order)}, {"static_groups", fixed}});
  ASSERT_TRUE(solution.ok()) << solution.status();
  EXPECT_EQ(solution->verdict, v1::VERDICT_OK);
  EXPECT_EQ(solution->damp, 0.01);
  TextbookOptions options;
  options.half_scales = true;
  options.max_code = c.max_code;
  options.symmetric = c.symmetric;
  options.group_size = c.group_size < 0 ? c.in : c.group_size;
  options.act_order = std::string(c.act_order) != "none";
  options.static_groups =
      c.static_groups || std::string(c.act_order) == "static";
  const TextbookResult truth = TextbookGptq(layer.weight, layer.statistics.gram,
                                            layer.statistics.tokens, options);
  const auto order = ProcessingOrder(layer, options.act_order);
  ExpectEqualUpToTies(solution->linear, truth, order);
  if (solution->linear.group_index.defined()) {
    for (int64_t i = 0; i < c.in; ++i) {
      EXPECT_EQ(solution->linear.group_index[i].item<int32_t>(),
                truth.group_index[i]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Layers, TextbookTest,
    testing::Values(Case{40, 64, 16, "int4", 15, true, "none", false},
                    Case{33, 96, 32, "int4", 15, false, "none", false},
                    Case{32, 100, 24, "int3", 7, false, "none", false},
                    Case{16, 300, 128, "int4", 15, true, "none", false},
                    Case{16, 256, -1, "int4", 15, true, "none", false},
                    Case{16, 640, 48, "int4", 15, false, "none", false},
                    Case{8, 1100, 600, "int4", 15, true, "none", false},
                    Case{24, 64, 4, "int2", 3, false, "none", false},
                    Case{24, 128, 32, "int8", 255, true, "none", false},
                    Case{24, 128, 32, "int5", 31, false, "none", true},
                    Case{24, 128, 32, "int4", 15, true, "static", false},
                    Case{24, 130, 32, "int4", 15, false, "dynamic", false},
                    Case{5, 1, 1, "int4", 15, true, "none", false},
                    Case{1, 64, 32, "int6", 63, true, "dynamic", false}));

// H = M M^T with M_01 = 1/2: only column 1 hears of column 0's error.
TEST(GptqTest, HandComputedFourByFour) {
  const at::Tensor weight = at::tensor({1.4f, 2.4f, -7.5f, 0.2f,  //
                                        -1.3f, 0.6f, 7.5f, 3.3f,  //
                                        0.0f, 0.0f, 0.0f, 7.5f,   //
                                        7.5f, 1.3f, 0.0f, 0.0f})
                                .view({4, 4});
  calibration::Statistics statistics;
  statistics.tokens = 2;  // So that H is the Gram matrix itself.
  statistics.gram = at::eye(4);
  statistics.gram[0][0] = 1.25;
  statistics.gram[0][1] = 0.5;
  statistics.gram[1][0] = 0.5;
  const auto solution =
      Solve(weight, &statistics, Spec("int4", -1, true, "float32"),
            {{"percdamp", Number(0)}});
  ASSERT_TRUE(solution.ok());
  // Scale 1, zero 8. Row 0: 1.4 -> 1 loses 0.4, so 2.4 becomes 2.6 -> 3.
  // Row 1: -1.3 -> -1 loses -0.3, so 0.6 becomes 0.45 -> 0.
  // Row 3: 7.5 is cut to 7 and loses 0.5, so 1.3 becomes 1.55 -> 2.
  const at::Tensor expected = at::tensor({9, 11, 0, 8,   //
                                          7, 8, 15, 11,  //
                                          8, 8, 8, 15,   //
                                          15, 10, 8, 8})
                                  .view({4, 4});
  EXPECT_TRUE(
      at::equal(solution->linear.codes.to(at::kLong), expected.to(at::kLong)))
      << solution->linear.codes;
  EXPECT_TRUE(at::equal(solution->linear.scales, at::full({4, 1}, 1.0f)));
}

TEST(GptqTest, DiagonalHessianGivesRoundToNearest) {
  const RandomLayer layer = MakeRandomLayer(48, 160, 10, 3);
  calibration::Statistics diagonal;
  diagonal.tokens = 10;
  diagonal.gram = layer.statistics.gram.diagonal().diag();
  for (const char* order : {"none", "static"}) {
    for (const bool symmetric : {true, false}) {
      const auto spec = Spec("int4", 32, symmetric, "float16");
      const auto gptq =
          Solve(layer.weight, &diagonal, spec, {{"act_order", Text(order)}});
      const auto rtn = Solve(layer.weight, nullptr, spec, {}, "rtn");
      ASSERT_TRUE(gptq.ok() && rtn.ok());
      EXPECT_TRUE(at::equal(gptq->linear.codes, rtn->linear.codes));
      EXPECT_TRUE(at::equal(gptq->linear.scales, rtn->linear.scales));
      EXPECT_TRUE(at::equal(gptq->linear.zeros, rtn->linear.zeros));
    }
  }
}

TEST(GptqTest, ScaleOfTheStatisticsDoesNotMatter) {
  const RandomLayer layer = MakeRandomLayer(32, 128, 400, 5);
  calibration::Statistics louder = layer.statistics;
  louder.gram = layer.statistics.gram.mul(64);  // Exact in binary.
  const auto spec = Spec("int3", 32, false);
  const auto a = Solve(layer.weight, &layer.statistics, spec);
  const auto b = Solve(layer.weight, &louder, spec);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_TRUE(at::equal(a->linear.codes, b->linear.codes));
}

TEST(GptqTest, BlockSizeDoesNotMatter) {
  const RandomLayer layer = MakeRandomLayer(16, 700, 1500, 5);
  TextbookOptions options;
  options.half_scales = true;
  options.group_size = 36;
  const TextbookResult truth = TextbookGptq(layer.weight, layer.statistics.gram,
                                            layer.statistics.tokens, options);
  const auto order = ProcessingOrder(layer, false);
  for (const int64_t block : {1, 7, 36, 128, 1000}) {
    const auto solution =
        Solve(layer.weight, &layer.statistics, Spec("int4", 36, true),
              {{"blocksize", Whole(block)}});
    ASSERT_TRUE(solution.ok());
    ExpectEqualUpToTies(solution->linear, truth, order);
  }
}

TEST(GptqTest, ALayerThatSharesItsFactorGetsTheSameBits) {
  for (const char* order : {"none", "static", "dynamic"}) {
    const RandomLayer first = MakeRandomLayer(24, 128, 400, 1);
    const RandomLayer second = MakeRandomLayer(40, 128, 400, 2);
    const auto spec = Spec("int4", 32, false);
    v1::Component component;
    component.set_id("gptq");
    (*component.mutable_params())["act_order"] = Text(order);
    const auto method = MakeMethod(component);
    ASSERT_TRUE(method.ok());
    SharedWork shared;
    const auto warm = (*method)->QuantizeLinear(
        {first.weight, &first.statistics, spec, &shared}, {});
    const auto together = (*method)->QuantizeLinear(
        {second.weight, &first.statistics, spec, &shared}, {});
    const auto alone =
        (*method)->QuantizeLinear({second.weight, &first.statistics, spec}, {});
    ASSERT_TRUE(warm.ok() && together.ok() && alone.ok());
    EXPECT_TRUE(at::equal(together->linear.codes, alone->linear.codes));
    EXPECT_TRUE(at::equal(together->linear.scales, alone->linear.scales));
    EXPECT_EQ(together->damp, alone->damp);
  }
}

TEST(GptqTest, AnotherDampingSharesNothing) {
  const RandomLayer layer = MakeRandomLayer(24, 128, 400, 1);
  const auto spec = Spec("int4", 32, false);
  SharedWork shared;
  for (const double damp : {0.01, 0.5}) {
    v1::Component component;
    component.set_id("gptq");
    (*component.mutable_params())["percdamp"] = Number(damp);
    const auto method = MakeMethod(component);
    ASSERT_TRUE(method.ok());
    const auto solution = (*method)->QuantizeLinear(
        {layer.weight, &layer.statistics, spec, &shared}, {});
    ASSERT_TRUE(solution.ok());
    EXPECT_EQ(solution->damp, damp);
  }
}

TEST(GptqTest, BeatsRoundToNearestOnTheLayersOutput) {
  for (const char* order : {"none", "static", "dynamic"}) {
    double gptq_error = 0, rtn_error = 0;
    for (uint32_t seed = 0; seed < 4; ++seed) {
      const RandomLayer layer = MakeRandomLayer(64, 256, 1024, 100 * seed);
      const auto spec = Spec("int4", 64, true, "float16");
      const auto gptq = Solve(layer.weight, &layer.statistics, spec,
                              {{"act_order", Text(order)}});
      const auto rtn = Solve(layer.weight, nullptr, spec, {}, "rtn");
      ASSERT_TRUE(gptq.ok() && rtn.ok());
      gptq_error +=
          RelativeError(layer.weight, gptq->linear, &layer.statistics);
      rtn_error += RelativeError(layer.weight, rtn->linear, &layer.statistics);
    }
    EXPECT_LT(gptq_error, 0.5 * rtn_error) << order;
  }
}

TEST(GptqTest, WeightsOnTheGridStayThere) {
  // Scale 1/16 and zero 5: every group holds both ends, so the rule finds it.
  at::Tensor codes = RandomNormal(8, 64, 1).mul_(4).round_().add_(5);
  codes = codes.clamp_(0, 15);
  codes.view({8, 4, 16}).select(2, 3).fill_(0);
  codes.view({8, 4, 16}).select(2, 9).fill_(15);
  const at::Tensor weight = codes.sub(5).div(16);
  const RandomLayer layer = MakeRandomLayer(8, 64, 200, 9);
  const auto solution =
      Solve(weight, &layer.statistics, Spec("int4", 16, false, "float16"));
  ASSERT_TRUE(solution.ok());
  EXPECT_TRUE(at::equal(solution->linear.codes.to(at::kFloat), codes));
  EXPECT_EQ(RelativeError(weight, solution->linear, &layer.statistics), 0);
}

TEST(GptqTest, StaticOrderKeepsTheGroupsAndScalesOfRounding) {
  const RandomLayer layer = MakeRandomLayer(16, 96, 300, 2);
  const auto spec = Spec("int4", 32, false, "float16");
  const auto gptq = Solve(layer.weight, &layer.statistics, spec,
                          {{"act_order", Text("static")}});
  const auto rtn = Solve(layer.weight, nullptr, spec, {}, "rtn");
  ASSERT_TRUE(gptq.ok() && rtn.ok());
  EXPECT_FALSE(gptq->linear.group_index.defined());
  EXPECT_TRUE(at::equal(gptq->linear.scales, rtn->linear.scales));
  EXPECT_TRUE(at::equal(gptq->linear.zeros, rtn->linear.zeros));
}

TEST(GptqTest, RunsGiveTheSameBits) {
  const RandomLayer layer = MakeRandomLayer(200, 1200, 2000, 4);
  const auto spec = Spec("int4", 128, true, "float16");
  const auto first = Solve(layer.weight, &layer.statistics, spec);
  ASSERT_TRUE(first.ok());
  for (int i = 0; i < 3; ++i) {
    const auto again = Solve(layer.weight.clone(), &layer.statistics, spec);
    ASSERT_TRUE(again.ok());
    EXPECT_TRUE(at::equal(first->linear.codes, again->linear.codes));
    EXPECT_TRUE(at::equal(first->linear.scales, again->linear.scales));
  }
}

}  // namespace
}  // namespace quantd::methods
