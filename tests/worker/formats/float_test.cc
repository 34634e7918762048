// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones.h>
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

const float kInfinity = std::numeric_limits<float>::infinity();

// The magnitudes of the published tables, by code without sign.
const std::vector<float>& Magnitudes(const std::string& id) {
  static const auto& tables = *new std::map<std::string, std::vector<float>>{
      {"fp4", {0, .5, 1, 1.5, 2, 3, 4, 6}},
      {"fp6_e2m3",
       {0,     .125, .25,   .375, .5,    .625, .75,  .875, 1,    1.125, 1.25,
        1.375, 1.5,  1.625, 1.75, 1.875, 2,    2.25, 2.5,  2.75, 3,     3.25,
        3.5,   3.75, 4,     4.5,  5,     5.5,  6,    6.5,  7,    7.5}},
      {"fp6_e3m2",
       {0,    .0625, .125, .1875, .25,  .3125, .375, .4375, .5,  .625, .75,
        .875, 1,     1.25, 1.5,   1.75, 2,     2.5,  3,     3.5, 4,    5,
        6,    7,     8,    10,    12,   14,    16,   20,    24,  28}}};
  return tables.at(id);
}

// The code of each value on the grid of scale 1.
at::Tensor CodesOf(const std::string& id, const at::Tensor& values) {
  return FormatOf(id)
      .Nearest(values.view({1, -1}), {at::ones({1}), at::Tensor()})
      .flatten();
}
int CodeOf(const std::string& id, float value) {
  return CodesOf(id, at::tensor({value})).item<int>();
}

class SmallFloatTest : public testing::TestWithParam<const char*> {};

TEST_P(SmallFloatTest, LevelsAreThePublishedTable) {
  const std::vector<float>& table = Magnitudes(GetParam());
  const at::Tensor levels = FormatOf(GetParam()).levels();
  const int64_t sign = static_cast<int64_t>(table.size());
  ASSERT_EQ(levels.numel(), 2 * sign);
  for (int64_t code = 0; code < sign; ++code) {
    EXPECT_EQ(levels[code].item<float>(), table[code]);
    EXPECT_EQ(levels[code + sign].item<float>(), -table[code]);
  }
  EXPECT_TRUE(std::signbit(levels[sign].item<float>()));
}

TEST_P(SmallFloatTest, TiesGoToTheEvenCodeAndTheRestToTheNearest) {
  const std::vector<float>& table = Magnitudes(GetParam());
  const int sign = static_cast<int>(table.size());
  for (int code = 0; code + 1 < sign; ++code) {
    const float middle = (table[code] + table[code + 1]) / 2;
    const int even = code % 2 == 0 ? code : code + 1;
    EXPECT_EQ(CodeOf(GetParam(), middle), even);
    EXPECT_EQ(CodeOf(GetParam(), -middle), even + sign);
    EXPECT_EQ(CodeOf(GetParam(), std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(CodeOf(GetParam(), std::nextafter(middle, 100.0f)), code + 1);
    EXPECT_EQ(CodeOf(GetParam(), -std::nextafter(middle, 100.0f)),
              code + 1 + sign);
  }
}

TEST_P(SmallFloatTest, BeyondTheLargestIsTheLargest) {
  const int largest = static_cast<int>(Magnitudes(GetParam()).size()) - 1;
  for (const float value : {30.0f, 1e9f, 3e38f, kInfinity}) {
    EXPECT_EQ(CodeOf(GetParam(), value), largest);
    EXPECT_EQ(CodeOf(GetParam(), -value), 2 * largest + 1);
  }
}

TEST_P(SmallFloatTest, TheSignOfZeroIsKept) {
  const int sign = static_cast<int>(Magnitudes(GetParam()).size());
  EXPECT_EQ(CodeOf(GetParam(), 0.0f), 0);
  EXPECT_EQ(CodeOf(GetParam(), -0.0f), sign);
  EXPECT_EQ(CodeOf(GetParam(), 1e-45f), 0);
  EXPECT_EQ(CodeOf(GetParam(), -1e-45f), sign);
}

INSTANTIATE_TEST_SUITE_P(Types, SmallFloatTest,
                         testing::Values("fp4", "fp6_e2m3", "fp6_e3m2"));

// All finite float16 values and all code points as LibTorch's own types have
// them.
at::Tensor AllHalves() {
  const at::Tensor halves =
      at::arange(65536, at::kInt).to(at::kShort).view(at::kHalf).to(at::kFloat);
  return halves.masked_select(at::isfinite(halves));
}
void ExpectSameAsLibTorch(const std::string& id, at::ScalarType type,
                          float largest) {
  const at::Tensor expected =
      at::arange(256, at::kInt).to(at::kByte).view(type).to(at::kFloat);
  const at::Tensor levels = FormatOf(id).levels();
  const at::Tensor finite = at::isfinite(expected);
  EXPECT_TRUE(at::isfinite(levels).equal(finite));
  EXPECT_TRUE(
      levels.masked_select(finite).equal(expected.masked_select(finite)));
  // Half the range of e5m2's exponents, then all of it; ties included, which
  // lie on float16 values.
  for (const float scale : {1.0f, 1.0f / 1024, 1024.0f}) {
    const at::Tensor values = AllHalves().mul(scale);
    const at::Tensor cast = values.clamp(-largest, largest).to(type);
    EXPECT_TRUE(CodesOf(id, values).equal(cast.view(at::kByte))) << scale;
  }
}

TEST(Fp8Test, E4m3IsTheTypeOfLibTorchWithSaturation) {
  ExpectSameAsLibTorch("fp8_e4m3", at::kFloat8_e4m3fn, 448);
}

TEST(Fp8Test, E5m2IsTheTypeOfLibTorchWithSaturation) {
  ExpectSameAsLibTorch("fp8_e5m2", at::kFloat8_e5m2, 57344);
}

TEST(Fp8Test, SubnormalsAndTheirTies) {
  // E4M3: steps of 2^-9 below 2^-6.
  const float step = std::ldexp(1.0f, -9);
  EXPECT_EQ(CodeOf("fp8_e4m3", step), 1);
  EXPECT_EQ(CodeOf("fp8_e4m3", step / 2), 0);
  EXPECT_EQ(CodeOf("fp8_e4m3", 1.5f * step), 2);
  EXPECT_EQ(CodeOf("fp8_e4m3", 7.5f * step), 8);
  // E5M2: steps of 2^-16 below 2^-14.
  EXPECT_EQ(CodeOf("fp8_e5m2", std::ldexp(3.0f, -16)), 3);
  EXPECT_EQ(CodeOf("fp8_e5m2", std::ldexp(3.5f, -16)), 4);
}

class FloatScaleTest : public testing::TestWithParam<const char*> {};

TEST_P(FloatScaleTest, EveryCodePointComesBack) {
  const Format& format = FormatOf(GetParam());
  const at::Tensor finite = at::isfinite(format.levels());
  const at::Tensor codes =
      at::arange(format.max_code() + 1).masked_select(finite).view({1, -1});
  const at::Tensor weight =
      format.levels().masked_select(finite).mul(0.125).view({1, -1});
  const auto linear = RoundToNearest(weight, SpecOf(GetParam(), -1));
  ASSERT_TRUE(linear.ok()) << linear.status();
  EXPECT_EQ(linear->scales.item<float>(), 0.125f);
  EXPECT_TRUE(linear->codes.to(at::kLong).equal(codes));
  EXPECT_TRUE(Dequantize(*linear).equal(weight));
}

TEST_P(FloatScaleTest, ScaleIsTheLargestMagnitudeOverTheLargestLevel) {
  const float largest =
      FormatOf(GetParam()).levels().nan_to_num(0).max().item<float>();
  const at::Tensor weight =
      at::tensor({0.3f, -0.7f, 0.1f, 0.2f, 0.05f, 0.6f}).view({1, 6});
  const auto linear = RoundToNearest(weight, SpecOf(GetParam(), 3));
  ASSERT_TRUE(linear.ok());
  EXPECT_EQ(linear->scales[0][0].item<float>(), 0.7f / largest);
  EXPECT_EQ(linear->scales[0][1].item<float>(), 0.6f / largest);
  EXPECT_FLOAT_EQ(Dequantize(*linear)[0][1].item<float>(), -0.7f);
}

TEST_P(FloatScaleTest, AGroupOfZerosHasScaleOne) {
  const auto linear = RoundToNearest(at::zeros({2, 8}), SpecOf(GetParam(), 4));
  ASSERT_TRUE(linear.ok());
  EXPECT_TRUE(linear->scales.eq(1).all().item<bool>());
  EXPECT_TRUE(linear->codes.eq(0).all().item<bool>());
}

TEST_P(FloatScaleTest, OneScaleForTheLayerIsThatOfItsLargestGroup) {
  const at::Tensor weight =
      at::arange(-20, 44).to(at::kFloat).mul(0.01).view({4, 16});
  const WeightSpec spec = With(SpecOf(GetParam(), 8), "scope", "tensor");
  const auto linear = RoundToNearest(weight, spec);
  ASSERT_TRUE(linear.ok()) << linear.status();
  const auto whole =
      RoundToNearest(weight.view({1, 64}), SpecOf(GetParam(), -1));
  EXPECT_EQ(linear->scales.sizes(), (at::IntArrayRef{4, 2}));
  EXPECT_TRUE(
      linear->scales.eq(whole->scales.item<float>()).all().item<bool>());
  EXPECT_TRUE(linear->codes.equal(whole->codes.view({4, 16})));
  EXPECT_EQ(FormatOf(GetParam()).BitsPerWeight(spec, 16),
            FormatOf(GetParam()).bits());
}

INSTANTIATE_TEST_SUITE_P(Types, FloatScaleTest,
                         testing::Values("fp4", "fp6_e2m3", "fp6_e3m2",
                                         "fp8_e4m3", "fp8_e5m2"));

class TileScopeTest : public testing::TestWithParam<const char*> {
 protected:
  static WeightSpec Tiles(int64_t columns) {
    return With(SpecOf(GetParam(), columns), "scope", "tile");
  }
};

TEST_P(TileScopeTest, ATileHasTheScaleOfItsLargestMagnitude) {
  // Short tiles at the right and at the bottom.
  constexpr int64_t kColumns = 64;
  const at::Tensor weight = Normal(2 * kTileRows + 5, 2 * kColumns + 9, 1);
  const auto linear = RoundToNearest(weight, Tiles(kColumns));
  ASSERT_TRUE(linear.ok()) << linear.status();
  ASSERT_EQ(linear->scales.sizes(), (at::IntArrayRef{weight.size(0), 3}));
  const float largest =
      FormatOf(GetParam()).levels().nan_to_num(0).max().item<float>();
  for (int64_t row = 0; row < weight.size(0); row += kTileRows) {
    const int64_t rows = std::min(kTileRows, weight.size(0) - row);
    for (int64_t group = 0; group < 3; ++group) {
      const int64_t column = group * kColumns;
      const int64_t columns = std::min(kColumns, weight.size(1) - column);
      const at::Tensor tile =
          weight.narrow(0, row, rows).narrow(1, column, columns);
      const float scale = tile.abs().max().item<float>() / largest;
      EXPECT_TRUE(linear->scales.narrow(0, row, rows)
                      .select(1, group)
                      .eq(scale)
                      .all()
                      .item<bool>());
      EXPECT_TRUE(CodesOf(GetParam(), tile.div(scale).flatten())
                      .equal(linear->codes.narrow(0, row, rows)
                                 .narrow(1, column, columns)
                                 .flatten()));
    }
  }
}

TEST_P(TileScopeTest, ATileOfOneRowIsAGroup) {
  const at::Tensor weight = Normal(1, 96, 2);
  const auto tiles = RoundToNearest(weight, Tiles(32));
  const auto groups = RoundToNearest(weight, SpecOf(GetParam(), 32));
  ASSERT_TRUE(tiles.ok() && groups.ok());
  EXPECT_TRUE(tiles->scales.equal(groups->scales));
  EXPECT_TRUE(tiles->codes.equal(groups->codes));
}

TEST_P(TileScopeTest, ATileOfAllColumnsIsThatManyRows) {
  const at::Tensor weight = Normal(kTileRows + 1, 40, 3);
  const auto tiles = RoundToNearest(weight, Tiles(-1));
  ASSERT_TRUE(tiles.ok()) << tiles.status();
  EXPECT_EQ(tiles->num_groups(), 1);
  const auto whole =
      RoundToNearest(weight.narrow(0, 0, kTileRows).contiguous(),
                     With(SpecOf(GetParam(), 8), "scope", "tensor"));
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_TRUE(tiles->codes.narrow(0, 0, kTileRows).equal(whole->codes));
}

TEST_P(TileScopeTest, AScaleIsAShareOfItsRowsAndColumns) {
  EXPECT_EQ(FormatOf(GetParam()).BitsPerWeight(Tiles(128), 4096),
            8 + 32.0 / (128 * 128));
  // Two tiles for 192 columns.
  EXPECT_EQ(FormatOf(GetParam()).BitsPerWeight(Tiles(128), 192),
            8 + 2 * 32.0 / (128 * 192));
}

INSTANTIATE_TEST_SUITE_P(Types, TileScopeTest,
                         testing::Values("fp8_e4m3", "fp8_e5m2"));

TEST(TileScopeTest, TypesWithoutKernelsForThemHaveNone) {
  for (const char* id : {"fp4", "fp6_e2m3", "fp6_e3m2", "int8"}) {
    const auto linear =
        RoundToNearest(Normal(2, 32, 4), With(SpecOf(id, 32), "scope", "tile"));
    EXPECT_EQ(base::ErrorReason(linear.status()), "PARAMETER_INVALID") << id;
  }
}

// The peer divides in bfloat16, so that its quotients are rounded twice.
struct PeerCase {
  const char* folder;
  const char* scope;
  int64_t group_size;
};

// What was stored once for several rows, as often as `linear` has it.
at::Tensor ScaleOfEveryRow(const at::Tensor& stored,
                           const QuantizedLinear& linear) {
  const at::Tensor rows = stored.to(at::kFloat).dim() == 2
                              ? stored.to(at::kFloat)
                              : stored.to(at::kFloat).view({1, 1});
  const int64_t height =
      (linear.out_features + rows.size(0) - 1) / rows.size(0);
  return rows.repeat_interleave(height, 0)
      .narrow(0, 0, linear.out_features)
      .expand_as(linear.scales);
}

class Fp8PeerTest : public testing::TestWithParam<PeerCase> {};

TEST_P(Fp8PeerTest, ScalesAndCodesAreThoseOfThePeer) {
  SKIP_WITHOUT_TEST_DATA();
  const auto source = ReadFixture("quantized/source_fp32/model.safetensors");
  const auto peer = ReadFixture(std::string("quantized/") + GetParam().folder +
                                "/model.safetensors");
  const WeightSpec spec =
      With(SpecOf("fp8_e4m3", GetParam().group_size, "bfloat16"), "scope",
           GetParam().scope);
  int modules = 0;
  for (const auto& [name, stored] : peer) {
    if (stored.scalar_type() != at::kFloat8_e4m3fn) continue;
    const std::string module = name.substr(0, name.size() - 7);
    const at::Tensor weight = source.at(module + ".weight");
    const auto linear = RoundToNearest(weight, spec);
    ASSERT_TRUE(linear.ok());
    EXPECT_TRUE(linear->scales.equal(
        ScaleOfEveryRow(peer.at(module + ".weight_scale"), *linear)))
        << module;
    const at::Tensor codes = stored.view(at::kByte);
    const at::Tensor quotient =
        weight
            .div(linear->scales.repeat_interleave(linear->group_size, 1)
                     .narrow(1, 0, weight.size(1)))
            .to(at::kBFloat16)
            .to(at::kFloat);
    EXPECT_TRUE(CodesOf("fp8_e4m3", quotient.flatten())
                    .view(codes.sizes())
                    .equal(codes))
        << module;
    // Ours come from the exact quotients: never farther away.
    QuantizedLinear theirs = *linear;
    theirs.codes = codes;
    const at::Tensor our_error = Dequantize(*linear).sub(weight).abs();
    const at::Tensor their_error = Dequantize(theirs).sub(weight).abs();
    EXPECT_TRUE(our_error.le(their_error.mul(1 + 1e-5)).all().item<bool>());
    ++modules;
  }
  EXPECT_EQ(modules, 14);
}

INSTANTIATE_TEST_SUITE_P(
    Checkpoints, Fp8PeerTest,
    testing::Values(PeerCase{"llmc_fp8_dynamic", "group", -1},
                    PeerCase{"llmc_fp8_static", "tensor", -1},
                    PeerCase{"llmc_fp8_block", "tile", 128}),
    [](const auto& test) { return std::string(test.param.scope); });

}  // namespace
}  // namespace quantd::formats
