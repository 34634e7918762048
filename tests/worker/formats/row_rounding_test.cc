// SPDX-License-Identifier: Apache-2.0
// Rows of activations against values worked out by hand, then what holds for
// every format that activations may have.
#include "worker/formats/row_rounding.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "proto/base/error.h"
#include "tests/worker/formats/peer_tensors.h"

namespace quantd::formats {
namespace {

using testing::ElementsAre;

spec::ModuleSettings Settings(const std::string& format) {
  spec::ModuleSettings settings;
  settings.activations = format;
  return settings;
}

RowRounding Make(const spec::ModuleSettings& settings,
                 const v1::InputRange* range = nullptr) {
  const auto format = ActivationFormat(settings);
  EXPECT_TRUE(format.ok()) << format.status();
  const auto rounding = MakeRowRounding(**format, range);
  EXPECT_TRUE(rounding.ok()) << rounding.status();
  return *rounding;
}

v1::InputRange Range(double low, double high) {
  v1::InputRange range;
  range.set_low(low);
  range.set_high(high);
  return range;
}

// One row through `rounding`.
std::vector<float> Row(const RowRounding& rounding,
                       const std::vector<float>& values) {
  const at::Tensor row = rounding(at::tensor(values).view({1, -1}));
  return {row.const_data_ptr<float>(),
          row.const_data_ptr<float>() + row.numel()};
}

void SetGrid(const std::string& grid, spec::ModuleSettings* settings) {
  (*settings->rounding.mutable_params())["grid"].set_string_value(grid);
}

TEST(RowRoundingTest, EightBitsPerTokenByHand) {
  // 127.5 * 2 / 255 = 1: a half goes to the even code, +a to the last one.
  const RowRounding rounding = Make(Settings("int8"));
  EXPECT_THAT(Row(rounding, {127.5f, -127.5f, 0.5f, 1.5f, -2.5f, 3.25f}),
              ElementsAre(127, -128, 0, 2, -2, 3));
  // The next token has a range of its own: steps of 1/4.
  const at::Tensor both =
      rounding(at::tensor({127.5f, 0.125f, 31.875f, 0.1875f}).view({2, 2}));
  EXPECT_TRUE(
      both.equal(at::tensor({127.0f, 0.0f, 31.75f, 0.25f}).view({2, 2})));
}

TEST(RowRoundingTest, AbsmaxGridReachesBothEnds) {
  // 2.54 / 127 = 0.02 but for the last bit of float32.
  spec::ModuleSettings settings = Settings("int8");
  SetGrid("symmetric", &settings);
  const std::vector<float> row =
      Row(Make(settings), {2.54f, -2.54f, 0.031f, -0.029f});
  EXPECT_NEAR(row[0], 2.54, 1e-6);
  EXPECT_NEAR(row[1], -2.54, 1e-6);
  EXPECT_NEAR(row[2], 0.04, 1e-7);
  EXPECT_NEAR(row[3], -0.02, 1e-7);
}

TEST(RowRoundingTest, ZeroPointsTakeTheWholeRange) {
  // [-1, 2.75] over 15 steps of 1/4, zero on code 4.
  spec::ModuleSettings settings = Settings("int4");
  settings.rounding.set_asymmetric(true);
  EXPECT_THAT(Row(Make(settings), {-1.0f, 2.75f, 0.0f, 0.3f, -0.9f}),
              ElementsAre(-1, 2.75, 0, 0.25, -1));
  // Symmetric has steps of 2 * 2.75 / 15.
  settings.rounding.set_asymmetric(false);
  EXPECT_NEAR(Row(Make(settings), {-1.0f, 2.75f})[0], -3 * 5.5 / 15, 1e-6);
}

TEST(RowRoundingTest, AClipRatioCutsTheRange) {
  spec::ModuleSettings settings = Settings("int8");
  SetGrid("symmetric", &settings);
  settings.rounding.set_clip_ratio(0.5);
  // The grid ends at 127, in steps of 1.
  EXPECT_THAT(Row(Make(settings), {254.0f, -254.0f, 126.75f, 0.25f}),
              ElementsAre(127, -128, 127, 0));
}

TEST(RowRoundingTest, AStaticRangeHoldsForEveryToken) {
  spec::ModuleSettings settings = Settings("int8");
  SetGrid("symmetric", &settings);
  settings.rounding.set_range("static");
  const v1::InputRange range = Range(-127, 20);
  const RowRounding rounding = Make(settings, &range);
  EXPECT_THAT(Row(rounding, {0.4f, 0.6f, 126.0f}), ElementsAre(0, 1, 126));
  EXPECT_THAT(Row(rounding, {500.0f, -500.0f, 0.0f}),
              ElementsAre(127, -128, 0));
  // Without a range, as of an expert that no token reached, the token's own.
  EXPECT_THAT(Row(Make(settings), {254.0f, -254.0f, 3.0f}),
              ElementsAre(254, -254, 4));
}

TEST(RowRoundingTest, StaticZeroPointsByHand) {
  spec::ModuleSettings settings = Settings("int8");
  settings.rounding.set_range("static");
  settings.rounding.set_asymmetric(true);
  const v1::InputRange range = Range(-5, 250);
  EXPECT_THAT(Row(Make(settings, &range), {-100.0f, 300.0f, 7.4f, -4.6f}),
              ElementsAre(-5, 250, 7, -5));
}

TEST(RowRoundingTest, EightBitFloatsPerTokenByHand) {
  // Scale 1: from 16 to 32 E4M3 has steps of 2, and a half goes to the even
  // mantissa; the least subnormal is 2^-9.
  const RowRounding rounding = Make(Settings("fp8_e4m3"));
  EXPECT_THAT(Row(rounding, {448.0f, -17.0f, 19.0f, 0x1p-10f, 0x1.8p-10f}),
              ElementsAre(448, -16, 20, 0, 0x1p-9f));
}

TEST(RowRoundingTest, MicroscalingBlocksRunAlongTheFeatures) {
  // Two blocks and a short one: scales 1, 8 and 1/4.
  std::vector<float> row(70, 0.0f);
  row[0] = 6;
  row[1] = 2.5f;   // Between 2 and 3: to the even code.
  row[2] = 5;      // Between 4 and 6.
  row[3] = 0.25f;  // Between 0 and 0.5.
  row[32] = 48;
  row[33] = 2.5f;  // 0.3125 * 8.
  row[64] = 1.5f;
  row[65] = -0.3f;  // -1.2 / 4.
  const std::vector<float> rounded = Row(Make(Settings("mxfp4")), row);
  EXPECT_THAT(std::vector<float>(rounded.begin(), rounded.begin() + 4),
              ElementsAre(6, 2, 4, 0));
  EXPECT_EQ(rounded[32], 48);
  EXPECT_EQ(rounded[33], 4);
  EXPECT_EQ(rounded[64], 1.5f);
  EXPECT_EQ(rounded[65], -0.25f);
}

TEST(RowRoundingTest, StaticNvfp4IsTheFormatOfWeightsWithThatTensorScale) {
  const at::Tensor rows = Normal(9, 64, 3);
  const float largest = rows.abs().max().item<float>();
  spec::ModuleSettings settings = Settings("nvfp4");
  settings.rounding.set_range("static");
  const v1::InputRange range = Range(-largest, largest / 2);
  const auto stored = RoundToNearest(rows, SpecOf("nvfp4", 16));
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_TRUE(Make(settings, &range)(rows).equal(Dequantize(*stored)));
}

TEST(RowRoundingTest, DynamicNvfp4KeepsTheLargestValueOfAToken) {
  std::vector<float> row(32, 0.0f);
  row[3] = -3;      // The tensor's and its block's largest: scale 448, code -6.
  row[4] = 1.5f;    // 3 of 6.
  row[5] = 0.2f;    // 0.4 of 6: between 0 and 0.5, nearer to 0.5.
  row[20] = 0.75f;  // The largest of its block.
  const RowRounding rounding = Make(Settings("nvfp4"));
  std::vector<float> rounded = Row(rounding, row);
  EXPECT_FLOAT_EQ(rounded[3], -3);
  EXPECT_FLOAT_EQ(rounded[4], 1.5f);
  EXPECT_FLOAT_EQ(rounded[5], 0.25f);
  EXPECT_FLOAT_EQ(rounded[20], 0.75f);
  EXPECT_EQ(rounded[0], 0);
  EXPECT_THAT(Row(rounding, std::vector<float>(16, 0.0f)),
              testing::Each(testing::Eq(0.0f)));
}

TEST(RowRoundingTest, HeadsAreCutIntoGroups) {
  v1::KvCache cache;
  cache.set_format("int8");
  cache.set_group_size(2);
  const auto rounding = MakeKvRounding(cache);
  ASSERT_TRUE(rounding.ok()) << rounding.status();
  for (const RowRounding& heads : {rounding->keys, rounding->values}) {
    EXPECT_THAT(Row(heads, {127.5f, 0.4f, 31.875f, 0.3f, 12.75f}),
                ElementsAre(127, 0, 31.75f, 0.25f, testing::FloatEq(12.7f)));
  }
  cache.set_format("bf16");
  EXPECT_EQ(MakeKvRounding(cache)->keys, nullptr);
}

TEST(RowRoundingTest, AnotherBasisByHand) {
  // (14, 0) is rotated to (14, 14) / sqrt(2): the largest value twice, which
  // the grid has.
  spec::ModuleSettings settings = Settings("int4");
  SetGrid("symmetric", &settings);
  const RowRounding rounding =
      InBasis(numerics::Rotation::Plain(2), Make(settings));
  const std::vector<float> row = Row(rounding, {14.0f, 0.0f});
  EXPECT_NEAR(row[0], 14, 1e-5);
  EXPECT_NEAR(row[1], 0, 1e-5);
  EXPECT_EQ(InBasis(numerics::Rotation::Plain(2), nullptr), nullptr);
}

v1::KvCache FourBitCache(bool rotate_keys) {
  v1::KvCache cache;
  cache.set_format("int4");
  cache.set_rotate_keys(rotate_keys);
  return cache;
}

// Heads of 32 with a channel twenty times as loud as the others.
at::Tensor LoudHeads() {
  at::Tensor heads = at::randn({256, 32}, at::kFloat);
  heads.select(1, 5).mul_(20);
  return heads;
}

TEST(KvRoundingTest, RotatedKeysOfALoudChannelKeepTheOthers) {
  const at::Tensor heads = LoudHeads();
  const auto error = [&](const v1::KvCache& cache) {
    return MakeKvRounding(cache)
        ->keys(heads)
        .sub(heads)
        .square()
        .sum()
        .item<double>();
  };
  EXPECT_LT(error(FourBitCache(true)), 0.5 * error(FourBitCache(false)));
}

TEST(KvRoundingTest, OnlyKeysAreRotated) {
  const at::Tensor heads = LoudHeads();
  const KvRounding plain = *MakeKvRounding(FourBitCache(false));
  const KvRounding rotated = *MakeKvRounding(FourBitCache(true));
  EXPECT_TRUE(plain.keys(heads).equal(plain.values(heads)));
  EXPECT_TRUE(rotated.values(heads).equal(plain.values(heads)));
  EXPECT_FALSE(rotated.keys(heads).equal(plain.keys(heads)));
}

TEST(RowRoundingTest, WhatIsNotFiniteIsLeftToWhoeverReadsIt) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  spec::ModuleSettings fixed = Settings("int8");
  fixed.rounding.set_range("static");
  const v1::InputRange range = Range(-1, 1);
  for (const RowRounding& rounding :
       {Make(Settings("int8")), Make(Settings("nvfp4")),
        Make(Settings("mxfp4")), Make(fixed, &range)}) {
    EXPECT_TRUE(at::isnan(rounding(at::tensor({nan, 1.0f}).view({1, 2})))
                    .any()
                    .item<bool>());
    const at::Tensor rows = at::tensor({infinity, 1.0f}).view({1, 2});
    EXPECT_FALSE(std::isfinite(rounding(rows).abs().max().item<float>()));
  }
}

TEST(RowRoundingTest, WhatCannotBeIsRefused) {
  spec::ModuleSettings settings = Settings("int9");
  EXPECT_EQ(base::ErrorReason(ActivationFormat(settings).status()),
            "COMPONENT_UNKNOWN");
  settings = Settings("mxfp8_e4m3");
  settings.rounding.set_asymmetric(true);
  EXPECT_EQ(base::ErrorReason(ActivationFormat(settings).status()),
            "ASYMMETRIC_FORMAT");
  settings = Settings("int8");
  (*settings.rounding.mutable_params())["scope"].set_string_value("tensor");
  EXPECT_EQ(base::ErrorReason(ActivationFormat(settings).status()),
            "ACTIVATION_SCOPE");
  settings = Settings("fp8_e4m3");
  (*settings.rounding.mutable_params())["scope"].set_string_value("tile");
  EXPECT_EQ(base::ErrorReason(ActivationFormat(settings).status()),
            "ACTIVATION_SCOPE");
  settings = Settings("int8");
  settings.skip = true;
  EXPECT_FALSE(ActivationFormat(settings)->has_value());
}

std::vector<std::string> ActivationFormats() {
  std::vector<std::string> ids;
  for (const FormatEntry& entry : Registry()) {
    const auto& provides = entry.description.provides();
    if (std::find(provides.begin(), provides.end(), "activations") !=
        provides.end()) {
      ids.push_back(entry.description.id());
    }
  }
  return ids;
}

class EveryFormat : public testing::TestWithParam<std::string> {};

TEST_P(EveryFormat, ATokenDependsOnNoOther) {
  const RowRounding rounding = Make(Settings(GetParam()));
  const at::Tensor one = Normal(3, 96, 1);
  const at::Tensor other = Normal(5, 96, 2).mul(37);
  const at::Tensor together = rounding(at::cat({one, other}));
  EXPECT_TRUE(together.narrow(0, 0, 3).equal(rounding(one)));
  EXPECT_TRUE(together.narrow(0, 3, 5).equal(rounding(other)));
}

TEST_P(EveryFormat, PowersOfTwoScaleTheResult) {
  const RowRounding rounding = Make(Settings(GetParam()));
  const at::Tensor rows = Normal(4, 64, 5);
  EXPECT_TRUE(rounding(rows.mul(0.25)).equal(rounding(rows).mul(0.25)));
}

TEST_P(EveryFormat, TheErrorIsThatOfTheBits) {
  const Format& format = FormatOf(GetParam());
  const at::Tensor rows = Normal(16, 96, 7);
  const at::Tensor error = Make(Settings(GetParam()))(rows).sub(rows);
  const double relative =
      error.norm().item<double>() / rows.norm().item<double>();
  EXPECT_GT(relative, 0);
  // Half of the bits at least are worth their while, of floats the mantissa.
  EXPECT_LT(relative, std::exp2(-format.bits() / 2.0));
}

TEST_P(EveryFormat, NoRowsAndShortRowsAreRowsToo) {
  const RowRounding rounding = Make(Settings(GetParam()));
  EXPECT_EQ(rounding(at::zeros({0, 8})).size(0), 0);
  const at::Tensor rows = Normal(2, 5, 1);
  EXPECT_EQ(rounding(rows).sizes(), rows.sizes());
  EXPECT_TRUE(at::allclose(rounding(rows), rows, 0.5, 0.05));
}

INSTANTIATE_TEST_SUITE_P(Registered, EveryFormat,
                         testing::ValuesIn(ActivationFormats()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace quantd::formats
