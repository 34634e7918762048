// SPDX-License-Identifier: Apache-2.0
// What every number format must do, over every weight layout that it takes.
#include <ATen/ops/full_like.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "tests/contract/registered.h"
#include "tests/support/test_data.h"
#include "worker/formats/format.h"
#include "worker/models/linear.h"
#include "worker/pipeline/module_plan.h"
#include "worker/steps/block_file.h"

namespace quantd::contract {
namespace {

using formats::QuantizedLinear;
using formats::WeightSpec;

class FormatContract : public testing::TestWithParam<std::string> {
 protected:
  // Rounds `weight` in every layout that the format takes.
  struct Rounded {
    WeightSpec spec;
    QuantizedLinear linear;
  };
  static std::vector<Rounded> RoundAll(const at::Tensor& weight) {
    std::vector<Rounded> all;
    for (const WeightSpec& spec : Layouts(GetParam())) {
      const auto linear = formats::RoundToNearest(weight, spec);
      if (linear.ok()) {
        all.push_back({spec, *linear});
        continue;
      }
      // What is not taken is refused as a mistake of the recipe.
      EXPECT_EQ(linear.status().code(), absl::StatusCode::kInvalidArgument)
          << LayoutName(spec);
      EXPECT_NE(base::ErrorReason(linear.status()), "") << LayoutName(spec);
    }
    return all;
  }
  static const formats::Format& Format() {
    return **formats::FindFormat(GetParam());
  }
};

bool Provides(const std::string& id, const std::string& property) {
  const auto& provides = Describe(v1::SEAM_FORMAT, id).provides();
  return std::find(provides.begin(), provides.end(), property) !=
         provides.end();
}

// How much farther than to the nearest point a weight may go whose code comes
// from a scale, and a minimum, before they are rounded to float16: what that
// moves the point it goes to and the one it would have gone to.
at::Tensor RoundingOfGrids(const at::Tensor& weight, const at::Tensor& best,
                           const QuantizedLinear& linear) {
  const at::Tensor size = weight.abs().add(best);
  if (linear.offsets.defined()) size.add_(linear.offsets.abs().max(), 2);
  return size.mul_(std::exp2(-10));
}

// What each code stands for at each place: float32 [out, in] by code.
std::vector<at::Tensor> Points(const QuantizedLinear& linear, int max_code) {
  std::vector<at::Tensor> points;
  for (int code = 0; code <= max_code; ++code) {
    QuantizedLinear all_equal = linear;
    all_equal.codes = at::full_like(linear.codes, code);
    points.push_back(formats::Dequantize(all_equal));
  }
  return points;
}

TEST_P(FormatContract, TakesALayoutThatTheCatalogAllows) {
  bool legal = false;
  for (const Rounded& rounded : RoundAll(RandomWeight(8, 192, 1))) {
    legal = legal || LegalRecipe("", rounded.spec).has_value();
  }
  EXPECT_TRUE(legal);
}

TEST_P(FormatContract, TheResultHasTheShapeOfTheWeight) {
  for (const auto& [rows, columns] : std::vector<std::pair<int64_t, int64_t>>{
           {5, 192}, {1, 96}, {7, 1}, {1, 1}, {3, 50}}) {
    for (const auto& [spec, linear] :
         RoundAll(RandomWeight(rows, columns, 2))) {
      SCOPED_TRACE(absl::StrCat(LayoutName(spec), " ", rows, " x ", columns));
      EXPECT_EQ(linear.format, GetParam());
      EXPECT_EQ(linear.symmetric, spec.symmetric);
      EXPECT_EQ(linear.out_features, rows);
      EXPECT_EQ(linear.in_features, columns);
      EXPECT_EQ(linear.codes.sizes(), (at::IntArrayRef{rows, columns}));
      EXPECT_EQ(linear.codes.scalar_type(), at::kByte);
      EXPECT_LE(linear.codes.max().item<int>(), Format().max_code());
      const int64_t group = linear.group_size;
      EXPECT_EQ(group, std::min(spec.GroupSizeFor(columns), columns));
      // A short last group is a group.
      EXPECT_EQ(linear.num_groups(), (columns + group - 1) / group);
      EXPECT_EQ(linear.scales.size(0), rows);
      EXPECT_TRUE(at::isfinite(linear.scales).all().item<bool>());
      EXPECT_TRUE(at::isfinite(formats::Dequantize(linear)).all().item<bool>());
    }
  }
}

TEST_P(FormatContract, EveryWeightGoesToTheNearestPointOfItsStoredGrid) {
  for (const int64_t columns : {192, 50}) {
    const at::Tensor weight = RandomWeight(6, columns, 3);
    for (const auto& [spec, linear] : RoundAll(weight)) {
      at::Tensor best = at::full_like(weight, HUGE_VALF);
      for (const at::Tensor& point : Points(linear, Format().max_code())) {
        // Codes that are never written may stand for nothing.
        best = at::minimum(best, weight.sub(point).abs().nan_to_num(HUGE_VALF));
      }
      const at::Tensor error = weight.sub(formats::Dequantize(linear)).abs();
      at::Tensor slack = weight.abs().add(best).mul_(1e-5);
      if (Provides(GetParam(), "unrounded_scale")) {
        slack.add_(RoundingOfGrids(weight, best, linear));
      }
      EXPECT_TRUE(error.le(best.add(slack)).all().item<bool>())
          << LayoutName(spec) << " in " << columns;
    }
  }
}

TEST_P(FormatContract, ZeroStaysZero) {
  at::Tensor weight = RandomWeight(6, 192, 4);
  weight.select(0, 2).zero_();      // A row.
  weight.narrow(1, 0, 16).zero_();  // Whole groups of 16.
  weight.select(1, 100).zero_();    // One of many.
  at::Tensor zero = weight.eq(0);
  // Steps from a minimum need not meet 0, unless there is nothing else.
  if (Provides(GetParam(), "inexact_zero")) {
    zero = zero.all(1, /*keepdim=*/true).expand_as(weight);
  }
  for (const auto& [spec, linear] : RoundAll(weight)) {
    const at::Tensor values = formats::Dequantize(linear);
    EXPECT_TRUE(values.masked_select(zero).eq(0).all().item<bool>())
        << LayoutName(spec);
  }
  for (const auto& [spec, linear] : RoundAll(at::zeros({3, 192}))) {
    EXPECT_TRUE(formats::Dequantize(linear).eq(0).all().item<bool>())
        << LayoutName(spec);
  }
}

TEST_P(FormatContract, WeightsOfAnyMagnitudeGiveFiniteValues) {
  for (const double magnitude : {1e-38, 1e-30, 1e-6, 1e6, 1e30}) {
    const at::Tensor weight = RandomWeight(4, 192, 5).mul_(magnitude);
    for (const auto& [spec, linear] : RoundAll(weight)) {
      EXPECT_TRUE(at::isfinite(linear.scales).all().item<bool>())
          << LayoutName(spec) << " " << magnitude;
      EXPECT_TRUE(at::isfinite(formats::Dequantize(linear)).all().item<bool>())
          << LayoutName(spec) << " " << magnitude;
    }
  }
}

TEST_P(FormatContract, WhatIsNoFiniteMatrixIsRefused) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    at::Tensor weight = RandomWeight(4, 192, 6);
    weight[3][191] = bad;
    EXPECT_TRUE(RoundAll(weight).empty()) << bad;
  }
  EXPECT_TRUE(RoundAll(at::zeros({0, 192})).empty());
  EXPECT_TRUE(RoundAll(at::zeros({4, 0})).empty());
  EXPECT_TRUE(RoundAll(at::zeros({4})).empty());
  EXPECT_TRUE(RoundAll(RandomWeight(4, 192, 6).to(at::kHalf)).empty());
}

TEST_P(FormatContract, TheSameWeightGivesTheSameBitsAndIsLeftAlone) {
  const at::Tensor weight = RandomWeight(9, 192, 7);
  const at::Tensor before = weight.clone();
  const auto first = RoundAll(weight);
  const auto second = RoundAll(weight);
  ASSERT_EQ(first.size(), second.size());
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_TRUE(first[i].linear.codes.equal(second[i].linear.codes));
    EXPECT_TRUE(first[i].linear.scales.equal(second[i].linear.scales));
  }
  EXPECT_TRUE(weight.equal(before));
}

at::ScalarType ScalarTypeOf(const std::string& dtype) {
  if (dtype == "float16") return at::kHalf;
  return dtype == "bfloat16" ? at::kBFloat16 : at::kFloat;
}

// Scales are of the recipe's type and zero points are codes.
TEST_P(FormatContract, IntegerGridsAreMadeOfWhatIsStored) {
  if (!Provides(GetParam(), "integer")) {
    GTEST_SKIP() << "not an integer format";
  }
  for (const auto& [spec, linear] : RoundAll(RandomWeight(6, 192, 8))) {
    const at::Tensor& scales = linear.scales;
    EXPECT_TRUE(scales.gt(0).all().item<bool>()) << LayoutName(spec);
    EXPECT_TRUE(
        scales.to(ScalarTypeOf(spec.scale_dtype)).to(at::kFloat).equal(scales))
        << LayoutName(spec);
    EXPECT_EQ(linear.zeros.scalar_type(), at::kByte);
    EXPECT_LE(linear.zeros.max().item<int>(), Format().max_code());
    if (spec.symmetric) {
      EXPECT_TRUE(
          linear.zeros.eq((Format().max_code() + 1) / 2).all().item<bool>());
    }
  }
}

TEST_P(FormatContract, TheModelRunsTheDequantizedWeights) {
  for (const int64_t columns : {192, 50}) {
    const at::Tensor input = RandomWeight(4, columns, 9);
    for (const auto& [spec, linear] : RoundAll(RandomWeight(33, columns, 10))) {
      const at::Tensor weight = formats::Dequantize(linear);
      const auto packed = models::MakePackedLinear(linear, at::Tensor());
      const auto dense = models::MakeDenseLinear(weight, at::Tensor());
      EXPECT_TRUE(packed->DenseWeight().equal(weight)) << LayoutName(spec);
      EXPECT_TRUE(packed->Apply(input).equal(dense->Apply(input)))
          << LayoutName(spec) << " in " << columns;
    }
  }
}

TEST_P(FormatContract, BlockFilesKeepIt) {
  const support::TemporaryDirectory folder;
  for (const int64_t columns : {192, 50, 1}) {
    steps::QuantizedModules modules;
    for (const auto& [spec, linear] : RoundAll(RandomWeight(5, columns, 11))) {
      modules[LayoutName(spec)] = linear;
    }
    if (modules.empty()) continue;
    const std::string path = folder.File(absl::StrCat("block-", columns));
    ASSERT_TRUE(steps::WriteBlockFile(path, modules).ok());
    const auto back = steps::ReadBlockFile(path);
    ASSERT_TRUE(back.ok()) << back.status();
    ASSERT_EQ(back->size(), modules.size());
    for (const auto& [name, linear] : modules) {
      const QuantizedLinear& other = back->at(name);
      EXPECT_EQ(other.format, linear.format) << name;
      EXPECT_EQ(other.group_size, linear.group_size) << name;
      EXPECT_EQ(other.symmetric, linear.symmetric) << name;
      EXPECT_TRUE(other.codes.equal(linear.codes)) << name;
      EXPECT_TRUE(formats::Dequantize(other).equal(formats::Dequantize(linear)))
          << name;
    }
  }
}

TEST_P(FormatContract, BitsPerWeightAreTheCodesAndAShareOfTheGrid) {
  for (const auto& [spec, linear] : RoundAll(RandomWeight(8, 192, 12))) {
    pipeline::ModulePlan plan;
    plan.name = "module";
    plan.out_features = linear.out_features;
    plan.in_features = linear.in_features;
    plan.quantized = true;
    plan.spec = spec;
    const double bits = pipeline::BitsPerWeight({plan});
    const int code_bits = Format().bits();
    const bool one_grid =
        formats::ScopeOf(*formats::ParamsOf(spec)) == formats::Scope::kTensor;
    EXPECT_EQ(bits > code_bits, !one_grid) << LayoutName(spec);
    // At most a float32 scale and a float32 zero point for each group, and a
    // float32 for the tensor.
    const double grid = 64.0 / static_cast<double>(linear.group_size);
    EXPECT_LE(bits, code_bits + grid + 32.0 / (8 * 192)) << LayoutName(spec);
    EXPECT_EQ(1 << code_bits, Format().max_code() + 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Registered, FormatContract,
                         testing::ValuesIn(Ids(v1::SEAM_FORMAT)),
                         [](const auto& test) { return TestName(test.param); });

}  // namespace
}  // namespace quantd::contract
