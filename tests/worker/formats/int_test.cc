// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "proto/base/error.h"
#include "worker/formats/format.h"

namespace quantd::formats {
namespace {

at::Tensor RandomWeights(int64_t rows, int64_t columns, uint32_t seed) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal(0.01f, 0.05f);
  at::Tensor result = at::zeros({rows, columns});
  float* data = result.data_ptr<float>();
  for (int64_t i = 0; i < result.numel(); ++i) data[i] = normal(bits);
  return result;
}

const std::vector<std::string>& Ids() {
  static const auto& ids = *new std::vector<std::string>{
      "int1", "int2", "int3", "int4", "int5", "int6", "int8"};
  return ids;
}

class IntFormatTest : public testing::TestWithParam<std::string> {};

TEST_P(IntFormatTest, EveryCodePointComesBack) {
  const Format* format = *FindFormat(GetParam());
  const int64_t points = format->max_code() + 1;
  // 0 .. max_code on the grid with scale 1/4 and zero point 1.
  const at::Tensor weight =
      at::arange(points).to(at::kFloat).sub(1).div(4).view({1, points});
  const auto linear =
      RoundToNearest(weight, {GetParam(), -1, false, "float16"});
  ASSERT_TRUE(linear.ok()) << linear.status();
  EXPECT_TRUE(at::equal(linear->codes.to(at::kLong),
                        at::arange(points).view({1, points})));
  EXPECT_EQ(linear->scales.item<float>(), 0.25f);
  EXPECT_EQ(linear->zeros.item<uint8_t>(), 1);
  EXPECT_TRUE(at::equal(Dequantize(*linear), weight));
}

TEST_P(IntFormatTest, ErrorIsAtMostHalfAStepInsideTheGrid) {
  const int max_code = (*FindFormat(GetParam()))->max_code();
  for (const bool symmetric : {true, false}) {
    const at::Tensor weight = RandomWeights(17, 100, 3);
    const auto linear =
        RoundToNearest(weight, {GetParam(), 32, symmetric, "float16"});
    ASSERT_TRUE(linear.ok());
    ASSERT_EQ(linear->num_groups(), 4);  // The last holds 4 columns.
    const at::Tensor value = Dequantize(*linear);
    for (int64_t r = 0; r < 17; ++r) {
      for (int64_t c = 0; c < 100; ++c) {
        const double s = linear->scales[r][c / 32].item<float>();
        const double z = linear->zeros[r][c / 32].item<uint8_t>();
        const double w = weight[r][c].item<float>();
        const int code = linear->codes[r][c].item<uint8_t>();
        ASSERT_LE(code, max_code);
        const bool inside =
            w >= s * (0 - z - 0.5) && w <= s * (max_code - z + 0.5);
        if (inside) {
          EXPECT_LE(std::abs(w - value[r][c].item<float>()),
                    0.5 * s * (1 + 1e-5) + 1e-7);
        } else {
          EXPECT_EQ(code, w > 0 ? max_code : 0);
        }
      }
    }
  }
}

TEST_P(IntFormatTest, RoundingWhatWasRoundedChangesNothing) {
  // Both ends of every group are code points, so the grid is found again.
  const at::Tensor weight = RandomWeights(9, 64, 5);
  const auto once = RoundToNearest(weight, {GetParam(), 16, false, "float32"});
  ASSERT_TRUE(once.ok());
  const at::Tensor value = Dequantize(*once);
  const auto twice = RoundToNearest(value, {GetParam(), 16, false, "float32"});
  ASSERT_TRUE(twice.ok());
  const double drift = Dequantize(*twice).sub(value).abs().max().item<float>();
  EXPECT_LT(drift, 1e-5);
}

TEST_P(IntFormatTest, GridOfOneGroupIsTheOneRoundingUses) {
  const at::Tensor weight = RandomWeights(6, 48, 11);
  for (const bool symmetric : {true, false}) {
    const WeightSpec spec{GetParam(), -1, symmetric, "bfloat16"};
    const auto linear = RoundToNearest(weight, spec);
    const auto grid = (*FindFormat(GetParam()))->ChooseGrid(weight, spec, 1);
    ASSERT_TRUE(linear.ok() && grid.ok());
    EXPECT_TRUE(at::equal(grid->scale, linear->scales.view({6})));
    EXPECT_TRUE(at::equal(grid->zero, linear->zeros.to(at::kFloat).view({6})));
  }
}

INSTANTIATE_TEST_SUITE_P(AllIds, IntFormatTest, testing::ValuesIn(Ids()));

TEST(IntFormatsTest, HandComputedGroups) {
  // Symmetric: a = 1.5, scale 2 * 1.5 / 15 = 0.2, zero 8; a group of positive
  // weights has the same grid as its mirror image.
  const at::Tensor weight =
      at::tensor({0.1f, 0.31f, 0.9f, 1.5f, -0.1f, -0.31f, -0.9f, -1.5f})
          .view({1, 8});
  const auto symmetric = RoundToNearest(weight, {"int4", 4, true, "float32"});
  ASSERT_TRUE(symmetric.ok());
  EXPECT_FLOAT_EQ(symmetric->scales[0][0].item<float>(), 0.2f);
  EXPECT_FLOAT_EQ(symmetric->scales[0][1].item<float>(), 0.2f);
  EXPECT_EQ(symmetric->codes[0][1].item<uint8_t>(), 10);  // 1.55 -> 2
  EXPECT_EQ(symmetric->codes[0][3].item<uint8_t>(), 15);  // 7.5 -> 8, cut.
  EXPECT_EQ(symmetric->codes[0][7].item<uint8_t>(), 0);   // -7.5 -> -8.
  // Asymmetric: [0, 1.5] gives scale 0.1 and zero 0.
  const auto asymmetric = RoundToNearest(weight, {"int4", 4, false, "float32"});
  ASSERT_TRUE(asymmetric.ok());
  EXPECT_FLOAT_EQ(asymmetric->scales[0][0].item<float>(), 0.1f);
  EXPECT_EQ(asymmetric->zeros[0][0].item<uint8_t>(), 0);
  EXPECT_EQ(asymmetric->zeros[0][1].item<uint8_t>(), 15);
  EXPECT_EQ(asymmetric->codes[0][1].item<uint8_t>(), 3);
  EXPECT_EQ(asymmetric->codes[0][3].item<uint8_t>(), 15);
}

TEST(IntFormatsTest, TiesGoToTheEvenCode) {
  // Scale 1, zero 8.
  const at::Tensor weight =
      at::tensor({7.5f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f}).view({1, 6});
  const auto linear = RoundToNearest(weight, {"int4", -1, true, "float32"});
  ASSERT_TRUE(linear.ok());
  EXPECT_TRUE(
      at::equal(linear->codes.to(at::kLong),
                at::tensor({15, 8, 10, 10, 8, 6}).view({1, 6}).to(at::kLong)));
}

TEST(IntFormatsTest, ScalesAreRoundedAsTheirTypeDoes) {
  std::mt19937 bits(1);
  std::uniform_real_distribution<float> exponent(-40, 14);
  for (int i = 0; i < 2000; ++i) {
    const float a = std::exp2(exponent(bits));
    const at::Tensor weight = at::full({1, 1}, a);
    const float exact = (a + a) / 15;
    const auto half = RoundToNearest(weight, {"int4", -1, true, "float16"});
    const auto brain = RoundToNearest(weight, {"int4", -1, true, "bfloat16"});
    const float least_half = std::exp2(-24.0f);
    EXPECT_EQ(half->scales.item<float>(),
              std::max(least_half, static_cast<float>(c10::Half(exact))));
    EXPECT_EQ(brain->scales.item<float>(),
              static_cast<float>(c10::BFloat16(exact)));
  }
}

TEST(IntFormatsTest, ScalesStayPositiveAndFinite) {
  const at::Tensor weight =
      at::tensor({3e38f, 1e7f, 1e-20f, 1e-45f, 0.0f}).view({5, 1});
  for (const char* type : {"float16", "bfloat16", "float32"}) {
    for (const bool symmetric : {true, false}) {
      const auto linear = RoundToNearest(weight, {"int8", -1, symmetric, type});
      ASSERT_TRUE(linear.ok());
      for (int64_t r = 0; r < 5; ++r) {
        const float scale = linear->scales[r][0].item<float>();
        EXPECT_TRUE(std::isnormal(scale)) << type << " " << r;
        EXPECT_GT(scale, 0);
      }
      EXPECT_EQ(Dequantize(*linear)[4][0].item<float>(), 0);
    }
  }
}

TEST(IntFormatsTest, GroupIndexSaysWhereAColumnBelongs) {
  QuantizedLinear linear;
  linear.format = "int4";
  linear.out_features = 1;
  linear.in_features = 4;
  linear.group_size = 2;
  linear.codes = at::tensor({9, 9, 9, 9}).view({1, 4}).to(at::kByte);
  linear.scales = at::tensor({1.0f, 10.0f}).view({1, 2});
  linear.zeros = at::tensor({8, 7}).view({1, 2}).to(at::kByte);
  linear.group_index = at::tensor({1, 0, 0, 1}).to(at::kInt);
  EXPECT_TRUE(at::equal(Dequantize(linear),
                        at::tensor({20.0f, 1.0f, 1.0f, 20.0f}).view({1, 4})));
}

TEST(IntFormatsTest, BadInputIsRefusedWithItsReason) {
  const at::Tensor weight = RandomWeights(2, 8, 1);
  EXPECT_EQ(base::ErrorReason(
                RoundToNearest(weight, {"int4", 4, true, "float64"}).status()),
            "SCALE_TYPE_UNKNOWN");
  EXPECT_EQ(base::ErrorReason(
                RoundToNearest(at::zeros({0, 8}), {"int4", 4, true}).status()),
            "WEIGHT_SHAPE");
  EXPECT_EQ(RoundToNearest(weight, {"int44", 4, true}).status().code(),
            absl::StatusCode::kNotFound);
  weight[1][2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(
      base::ErrorReason(RoundToNearest(weight, {"int4", 4, true}).status()),
      "NON_FINITE_WEIGHT");
}

}  // namespace
}  // namespace quantd::formats
