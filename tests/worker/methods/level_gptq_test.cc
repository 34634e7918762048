// SPDX-License-Identifier: Apache-2.0
// Error feedback with number formats that the fused integer loop does not know:
// tables of levels, and integer grids that are chosen beforehand.
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/diag.h>
#include <ATen/ops/linalg_cholesky.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "proto/base/cancel.h"
#include "proto/base/error.h"
#include "tests/worker/methods/random_layer.h"
#include "tests/worker/methods/textbook_gptq.h"
#include "worker/methods/method.h"

namespace quantd::methods {
namespace {

using formats::WeightSpec;

WeightSpec Spec(const std::string& format, int64_t group_size) {
  WeightSpec spec;
  spec.format = format;
  spec.group_size = group_size;
  spec.scale_dtype = "float32";
  return spec;
}

WeightSpec With(WeightSpec spec, const std::string& name,
                const std::string& value) {
  spec.params[name].set_string_value(value);
  return spec;
}

LinearSolution Solve(const RandomLayer& layer, const WeightSpec& spec,
                     const std::string& act_order = "none",
                     int64_t block_size = 128) {
  v1::Component component;
  component.set_id("gptq");
  (*component.mutable_params())["act_order"].set_string_value(act_order);
  (*component.mutable_params())["blocksize"].set_int_value(block_size);
  auto method = MakeMethod(component);
  EXPECT_TRUE(method.ok()) << method.status();
  auto solution = (*method)->QuantizeLinear(
      {.weight = layer.weight, .statistics = &layer.statistics, .spec = spec},
      {});
  EXPECT_TRUE(solution.ok()) << solution.status();
  return *std::move(solution);
}

std::vector<double> ToVector(const at::Tensor& tensor) {
  const at::Tensor wide = tensor.to(at::kDouble).contiguous();
  return {wide.const_data_ptr<double>(),
          wide.const_data_ptr<double>() + wide.numel()};
}

// float32 [out, in] from [out, groups] and the group of each column.
at::Tensor Spread(const at::Tensor& per_group, const at::Tensor& group) {
  return per_group.index_select(1, group.to(at::kLong));
}

// The paper's loop in float64, one column after another, on the grids of
// `linear`; `group` [in] of each column. A row is compared up to the first
// column where float32 could have rounded otherwise.
void ExpectTextbookCodes(const RandomLayer& layer,
                         const formats::QuantizedLinear& linear,
                         const at::Tensor& group, const at::Tensor& order) {
  const int64_t out = layer.weight.size(0);
  const int64_t in = layer.weight.size(1);
  const std::vector<double> levels =
      ToVector((*formats::FindFormat(linear.format))->levels());
  at::Tensor hessian = DampedHessian(layer.statistics.gram, 200, 0.01);
  hessian = hessian.index_select(0, order).index_select(1, order);
  const std::vector<double> u =
      ToVector(at::linalg_cholesky(at::linalg_inv(hessian)).t());
  std::vector<double> w = ToVector(layer.weight.index_select(1, order));
  const std::vector<double> s =
      ToVector(Spread(linear.scales, group).index_select(1, order));
  const std::vector<double> m =
      ToVector(linear.offsets.defined()
                   ? Spread(linear.offsets, group).index_select(1, order)
                   : at::zeros({out, in}));
  const std::vector<double> ours =
      ToVector(linear.codes.index_select(1, order));
  int64_t compared = 0;
  for (int64_t r = 0; r < out; ++r) {
    for (int64_t c = 0; c < in; ++c) {
      const double above = w[r * in + c] - m[r * in + c];
      const double value = above / s[r * in + c];
      size_t best = 0;
      double nearest = HUGE_VAL;
      double second = HUGE_VAL;
      for (size_t q = 0; q < levels.size(); ++q) {
        const double distance = std::abs(value - levels[q]);
        if (!(distance < second)) continue;
        if (distance < nearest) {
          if (levels[q] != levels[best]) second = nearest;
          nearest = distance;
          best = q;
        } else if (levels[q] != levels[best]) {
          second = distance;
        }
      }
      if (second - nearest < 1e-5 * (1 + std::abs(value))) break;
      ASSERT_EQ(levels[static_cast<size_t>(ours[r * in + c])], levels[best])
          << "row " << r << " column " << c;
      ++compared;
      const double miss = above - s[r * in + c] * levels[best];
      for (int64_t j = c + 1; j < in; ++j) {
        w[r * in + j] -= miss * u[c * in + j] / u[c * in + c];
      }
    }
  }
  EXPECT_GT(compared, out * in * 3 / 4);
}

WeightSpec FixedSpec(const char* format) {
  const int64_t fixed = (*formats::FindFormat(format))->fixed_group_size();
  return Spec(format, fixed != 0 ? fixed : 32);
}

class LevelGptqTest : public testing::TestWithParam<const char*> {
 protected:
  WeightSpec spec() const { return FixedSpec(GetParam()); }
};

TEST_P(LevelGptqTest, CodesAreThoseOfThePapersLoop) {
  const RandomLayer layer = MakeRandomLayer(24, 96, 200, 1);
  const LinearSolution solution = Solve(layer, spec());
  EXPECT_EQ(solution.verdict, v1::VERDICT_OK) << solution.reason;
  const auto& linear = solution.linear;
  const auto rounded = *formats::RoundToNearest(layer.weight, spec());
  EXPECT_TRUE(linear.scales.equal(rounded.scales));
  EXPECT_FALSE(linear.codes.equal(rounded.codes));
  EXPECT_EQ(linear.parts.size(), rounded.parts.size());
  const at::Tensor group = at::arange(96).floor_divide(linear.group_size);
  ExpectTextbookCodes(layer, linear, group, at::arange(96));
}

TEST_P(LevelGptqTest, ActOrdersAreThoseOfThePapersLoop) {
  const RandomLayer layer = MakeRandomLayer(24, 96, 200, 2);
  const at::Tensor order =
      at::argsort(layer.statistics.gram.diagonal(), true, 0, true);
  for (const char* act_order : {"static", "dynamic"}) {
    SCOPED_TRACE(act_order);
    const auto linear = Solve(layer, spec(), act_order).linear;
    at::Tensor group = at::arange(96).floor_divide(linear.group_size);
    const bool dynamic = std::string(act_order) == "dynamic";
    ASSERT_EQ(linear.group_index.defined(), dynamic);
    if (dynamic) {
      group = at::argsort(order).floor_divide(linear.group_size);
      EXPECT_TRUE(linear.group_index.to(at::kLong).equal(group));
    }
    ExpectTextbookCodes(layer, linear, group, order);
  }
}

TEST_P(LevelGptqTest, AGramWithoutCorrelationGivesRoundingToNearest) {
  RandomLayer layer = MakeRandomLayer(16, 96, 200, 3);
  layer.statistics.gram = at::diag(layer.statistics.gram.diagonal());
  const auto rounded = *formats::RoundToNearest(layer.weight, spec());
  for (const char* act_order : {"none", "static"}) {
    const auto linear = Solve(layer, spec(), act_order).linear;
    EXPECT_TRUE(linear.codes.equal(rounded.codes)) << act_order;
  }
}

TEST_P(LevelGptqTest, BlocksChangeNothingButTheLastBits) {
  const RandomLayer layer = MakeRandomLayer(16, 96, 200, 4);
  const auto whole = Solve(layer, spec());
  const auto blocks = Solve(layer, spec(), "none", 24);
  const double same = whole.linear.codes.eq(blocks.linear.codes)
                          .to(at::kDouble)
                          .mean()
                          .item<double>();
  EXPECT_GT(same, 0.98);
}

TEST_P(LevelGptqTest, ErrorIsBelowThatOfRounding) {
  const RandomLayer layer = MakeRandomLayer(32, 96, 300, 5);
  const auto rounded = *formats::RoundToNearest(layer.weight, spec());
  EXPECT_LT(RelativeError(layer.weight, Solve(layer, spec()).linear,
                          &layer.statistics),
            RelativeError(layer.weight, rounded, &layer.statistics));
}

INSTANTIATE_TEST_SUITE_P(Formats, LevelGptqTest,
                         testing::Values("fp4", "fp6_e2m3", "fp8_e4m3", "mxfp4",
                                         "mxint8", "nvfp4", "nf4", "fp4_bnb"));

TEST(LevelGptqTest, DoubleQuantizedScalesAreThoseThatFeedbackRoundsWith) {
  const RandomLayer layer = MakeRandomLayer(24, 128, 200, 6);
  WeightSpec spec = Spec("nf4", 64);
  spec.params["double_quant"].set_bool_value(true);
  const auto linear = Solve(layer, spec).linear;
  EXPECT_EQ(linear.parts.count("absmax_codes"), 1);
  const at::Tensor group = at::arange(128).floor_divide(64);
  ExpectTextbookCodes(layer, linear, group, at::arange(128));
}

// Whose plain rounding takes codes from scales that are not stored.
TEST(LevelGptqTest, BlocksOfGgufAreRoundedToTheGridThatIsStored) {
  const RandomLayer layer = MakeRandomLayer(24, 96, 200, 9);
  const at::Tensor order =
      at::argsort(layer.statistics.gram.diagonal(), true, 0, true);
  for (const char* id : {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq2_0"}) {
    SCOPED_TRACE(id);
    const auto grids =
        (*formats::FindFormat(id))
            ->ChooseGrids(layer.weight, FixedSpec(id), base::CancelToken());
    ASSERT_TRUE(grids.ok()) << grids.status();
    const at::Tensor group = at::arange(96).floor_divide(grids->group_size);
    for (const char* act_order : {"none", "static"}) {
      const auto linear = Solve(layer, FixedSpec(id), act_order).linear;
      EXPECT_TRUE(linear.scales.equal(grids->scales));
      ASSERT_EQ(linear.offsets.defined(), grids->offsets.defined());
      if (linear.offsets.defined()) {
        EXPECT_TRUE(linear.offsets.equal(grids->offsets));
      }
      const bool sorted = std::string(act_order) == "static";
      ExpectTextbookCodes(layer, linear, group,
                          sorted ? order : at::arange(96));
    }
    const auto dynamic = Solve(layer, FixedSpec(id), "dynamic").linear;
    ExpectTextbookCodes(layer, dynamic,
                        at::argsort(order).floor_divide(dynamic.group_size),
                        order);
  }
}

TEST(LevelGptqTest, TilesKeepTheScalesThatRoundingGivesThem) {
  const RandomLayer layer = MakeRandomLayer(140, 96, 300, 9);
  const WeightSpec spec = With(Spec("fp8_e4m3", 64), "scope", "tile");
  const auto rounded = *formats::RoundToNearest(layer.weight, spec);
  for (const char* act_order : {"none", "static", "dynamic"}) {
    const auto linear = Solve(layer, spec, act_order).linear;
    // Rows above and below the end of a tile.
    EXPECT_TRUE(linear.scales[0].equal(linear.scales[127]));
    EXPECT_TRUE(linear.scales[128].equal(linear.scales[139]));
    EXPECT_FALSE(linear.scales[127].equal(linear.scales[128]));
    if (std::string(act_order) != "dynamic") {
      EXPECT_TRUE(linear.scales.equal(rounded.scales));
    }
    EXPECT_LT(RelativeError(layer.weight, linear, &layer.statistics),
              RelativeError(layer.weight, rounded, &layer.statistics));
  }
}

TEST(LevelGptqTest, OtherIntegerGridsAreChosenBeforehand) {
  const RandomLayer layer = MakeRandomLayer(32, 96, 300, 7);
  for (const WeightSpec& spec : {With(Spec("int3", 32), "grid", "awq"),
                                 With(Spec("int3", 32), "grid", "full_range"),
                                 With(Spec("int3", 32), "clip", "mse"),
                                 With(Spec("int4", -1), "scope", "tensor")}) {
    const auto rounded = *formats::RoundToNearest(layer.weight, spec);
    for (const char* act_order : {"none", "static", "dynamic"}) {
      const auto linear = Solve(layer, spec, act_order).linear;
      EXPECT_EQ(linear.zeros.scalar_type(), at::kByte);
      if (std::string(act_order) != "dynamic") {
        EXPECT_TRUE(linear.scales.equal(rounded.scales));
      }
      EXPECT_LT(RelativeError(layer.weight, linear, &layer.statistics),
                RelativeError(layer.weight, rounded, &layer.statistics));
    }
  }
}

TEST(LevelGptqTest, LayoutsThatTheFormatLacksAreRefused) {
  const RandomLayer layer = MakeRandomLayer(8, 64, 100, 8);
  WeightSpec spec = Spec("nf4", 64);
  spec.symmetric = false;
  v1::Component component;
  component.set_id("gptq");
  const auto method = MakeMethod(component);
  ASSERT_TRUE(method.ok());
  const absl::Status status =
      (*method)
          ->QuantizeLinear({.weight = layer.weight,
                            .statistics = &layer.statistics,
                            .spec = spec},
                           {})
          .status();
  EXPECT_EQ(base::ErrorReason(status), "ASYMMETRIC_FORMAT") << status;
}

}  // namespace
}  // namespace quantd::methods
