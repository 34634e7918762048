// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/strings/match.h"
#include "proto/base/error.h"
#include "tests/worker/formats/peer_tensors.h"

namespace quantd::formats {
namespace {

at::Tensor HeavyTailed(int64_t rows, int64_t columns, uint32_t seed) {
  std::mt19937 bits(seed);
  std::student_t_distribution<float> tailed(3);
  at::Tensor result = at::zeros({rows, columns});
  for (int64_t i = 0; i < result.numel(); ++i) {
    result.mutable_data_ptr<float>()[i] = 0.02f * tailed(bits);
  }
  return result;
}

WeightSpec Spec(const std::string& format, int64_t group, bool symmetric,
                const std::string& grid, const std::string& clip = "none") {
  WeightSpec spec = SpecOf(format, group);
  spec.symmetric = symmetric;
  return With(With(spec, "grid", grid), "clip", clip);
}

QuantizedLinear Round(const at::Tensor& weight, const WeightSpec& spec) {
  const auto linear = RoundToNearest(weight, spec);
  EXPECT_TRUE(linear.ok()) << linear.status();
  return *linear;
}

const at::Tensor& Sample() {
  static const auto& sample =
      *new at::Tensor(at::tensor({0.5f, -0.2f, 1.4f, -0.7f}).view({1, 4}));
  return sample;
}

TEST(GridConventionTest, AwqSymmetricLeavesTheLastCodeBelow) {
  const QuantizedLinear linear = Round(Sample(), Spec("int4", -1, true, "awq"));
  EXPECT_FLOAT_EQ(linear.scales.item<float>(), 1.4f / 7);
  EXPECT_TRUE(linear.codes.to(at::kLong).equal(
      at::tensor({10, 7, 15, 4}).view({1, 4}).to(at::kLong)));
  // 2.5 is a tie, to the even 2; the largest magnitude is a code of its own.
  EXPECT_FLOAT_EQ(Dequantize(linear)[0][2].item<float>(), 1.4f);
}

TEST(GridConventionTest, SymmetricIsTheSameGrid) {
  const QuantizedLinear awq = Round(Sample(), Spec("int4", -1, true, "awq"));
  const QuantizedLinear plain =
      Round(Sample(), Spec("int4", -1, true, "symmetric"));
  EXPECT_TRUE(awq.codes.equal(plain.codes));
  EXPECT_TRUE(awq.scales.equal(plain.scales));
}

TEST(GridConventionTest, AwqAsymmetricHasAFloorUnderTheRange) {
  const QuantizedLinear linear =
      Round(Sample(), Spec("int4", -1, false, "awq"));
  EXPECT_FLOAT_EQ(linear.scales.item<float>(), 2.1f / 15);
  EXPECT_EQ(linear.zeros.item<int>(), 5);
  const at::Tensor tiny = at::tensor({1e-9f, 0.0f}).view({1, 2});
  EXPECT_FLOAT_EQ(
      Round(tiny, Spec("int4", -1, false, "awq")).scales.item<float>(),
      1e-5f / 15);
  // A group of one sign: the range holds 0.
  const at::Tensor positive = at::tensor({3.0f, 2.5f}).view({1, 2});
  const QuantizedLinear shifted =
      Round(positive, Spec("int4", -1, false, "awq"));
  EXPECT_FLOAT_EQ(shifted.scales.item<float>(), 0.2f);
  EXPECT_FLOAT_EQ(Dequantize(shifted)[0][0].item<float>(), 3.0f);
}

TEST(GridConventionTest, FullRangePutsTheLargerSideOnCodeZero) {
  const QuantizedLinear linear =
      Round(Sample(), Spec("int4", -1, true, "full_range"));
  EXPECT_FLOAT_EQ(linear.scales.item<float>(), -1.4f / 8);
  EXPECT_EQ(linear.codes[0][2].item<int>(), 0);
  EXPECT_FLOAT_EQ(Dequantize(linear)[0][2].item<float>(), 1.4f);
  const QuantizedLinear mirrored =
      Round(Sample().neg(), Spec("int4", -1, true, "full_range"));
  EXPECT_FLOAT_EQ(mirrored.scales.item<float>(), 1.4f / 8);
  EXPECT_TRUE(mirrored.codes.equal(linear.codes));
  // Two bits: all four codes are used.
  const at::Tensor ramp = at::tensor({-2.0f, -1.0f, 0.0f, 1.0f}).view({1, 4});
  EXPECT_TRUE(Dequantize(Round(ramp, Spec("int2", -1, true, "full_range")))
                  .equal(ramp));
}

TEST(GridConventionTest, FullRangeBeatsTheDefaultAtTwoBits) {
  const at::Tensor weight = HeavyTailed(64, 128, 1);
  const auto error = [&](const std::string& grid) {
    return Dequantize(Round(weight, Spec("int2", 32, true, grid)))
        .sub(weight)
        .square()
        .sum()
        .item<double>();
  };
  EXPECT_LT(error("full_range"), error("gptq"));
}

TEST(GridConventionTest, GridsWithoutZeroPointsRefuseAsymmetricWeights) {
  for (const char* grid : {"full_range", "symmetric"}) {
    const absl::Status status =
        RoundToNearest(Sample(), Spec("int4", -1, false, grid)).status();
    EXPECT_EQ(base::ErrorReason(status), "ASYMMETRIC_FORMAT") << status;
  }
  EXPECT_EQ(
      base::ErrorReason(
          RoundToNearest(Sample(), Spec("int4", -1, true, "hqq")).status()),
      "PARAMETER_INVALID");
}

TEST(GridConventionTest, FusedKernelsKnowTheDefaultAlone) {
  const Format& format = FormatOf("int4");
  EXPECT_TRUE((*format.IntegerRule(SpecOf("int4", 32))).has_value());
  for (const WeightSpec& spec :
       {Spec("int4", 32, true, "awq"), Spec("int4", 32, true, "gptq", "mse"),
        With(SpecOf("int4", 32), "scope", "tensor")}) {
    EXPECT_FALSE((*format.IntegerRule(spec)).has_value());
  }
}

class ClipTest : public testing::TestWithParam<const char*> {};

// sum |w^ - w|^2.4 of each group.
at::Tensor PowerError(const QuantizedLinear& linear, const at::Tensor& weight) {
  return Dequantize(linear)
      .sub(weight)
      .abs()
      .to(at::kDouble)
      .pow(2.4)
      .view({-1, linear.group_size})
      .sum(1);
}

TEST_P(ClipTest, NoGroupIsWorseThanWithoutIt) {
  const at::Tensor weight = HeavyTailed(48, 128, 2);
  for (const char* format : {"int2", "int3", "int4", "int8"}) {
    for (const bool symmetric : {true, false}) {
      const std::string grid = GetParam();
      if (!symmetric && grid != "gptq" && grid != "awq") continue;
      const at::Tensor plain =
          PowerError(Round(weight, Spec(format, 64, symmetric, grid)), weight);
      const at::Tensor clipped = PowerError(
          Round(weight, Spec(format, 64, symmetric, grid, "mse")), weight);
      EXPECT_TRUE(clipped.le(plain.mul(1 + 1e-6)).all().item<bool>()) << format;
      if (std::string(format) != "int8") {
        EXPECT_LT(clipped.sum().item<double>(), plain.sum().item<double>());
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Grids, ClipTest,
                         testing::Values("gptq", "awq", "full_range",
                                         "symmetric"));

// The published search, one group in float64.
TEST(ClipTest, RangeIsTheFirstBestOfEightyTried) {
  const at::Tensor weight = HeavyTailed(20, 32, 3);
  const QuantizedLinear linear =
      Round(weight, Spec("int3", -1, true, "gptq", "mse"));
  for (int64_t r = 0; r < 20; ++r) {
    double best_error = HUGE_VAL;
    double best_scale = 0;
    double second_error = HUGE_VAL;
    const double a = weight[r].abs().max().item<double>();
    for (int i = 0; i < 80; ++i) {
      const double scale = 2 * a * (1 - i / 100.0) / 7;
      double error = 0;
      for (int64_t c = 0; c < 32; ++c) {
        const double w = weight[r][c].item<double>();
        const double q = std::clamp(std::nearbyint(w / scale) + 4, 0.0, 7.0);
        error += std::pow(std::abs(scale * (q - 4) - w), 2.4);
      }
      if (error < best_error) {
        second_error = best_error;
        best_error = error;
        best_scale = scale;
      } else {
        second_error = std::min(second_error, error);
      }
    }
    // float32 may choose otherwise where two ranges are as good.
    if (second_error < best_error * (1 + 1e-5)) continue;
    EXPECT_NEAR(linear.scales[r][0].item<float>(), best_scale,
                best_scale * 1e-5)
        << r;
  }
}

TEST(ScopeTest, OneGridForTheLayerHoldsItsWholeRange) {
  const at::Tensor weight =
      at::arange(-30, 34).to(at::kFloat).mul(0.1).view({4, 16});
  for (const bool symmetric : {true, false}) {
    WeightSpec spec = SpecOf("int8", 8);
    spec.symmetric = symmetric;
    const QuantizedLinear linear = Round(weight, With(spec, "scope", "tensor"));
    const QuantizedLinear whole = Round(weight.view({1, 64}), [&] {
      WeightSpec one = spec;
      one.group_size = -1;
      return one;
    }());
    EXPECT_TRUE(linear.codes.equal(whole.codes.view({4, 16})));
    EXPECT_EQ(linear.zeros.scalar_type(), at::kByte);
    EXPECT_TRUE(Dequantize(linear).equal(Dequantize(whole).view({4, 16})));
  }
}

// llm-compressor: scale a / ((2^b - 1) / 2), as our default has it, in the
// checkpoint's bfloat16; quotients in bfloat16 too.
struct PeerCase {
  const char* folder;
  const char* format;
  int64_t group_size;
};
class IntegerPeerTest : public testing::TestWithParam<PeerCase> {};

TEST_P(IntegerPeerTest, ScalesAndCodesAreThoseOfThePeer) {
  SKIP_WITHOUT_TEST_DATA();
  const auto source = ReadFixture("quantized/source_fp32/model.safetensors");
  const auto peer = ReadFixture(std::string("quantized/") + GetParam().folder +
                                "/model.safetensors");
  const Format& format = FormatOf(GetParam().format);
  const int bits = format.bits();
  int modules = 0;
  for (const auto& [name, packed] : peer) {
    if (!absl::EndsWith(name, ".weight_packed")) continue;
    const std::string module = name.substr(0, name.size() - 14);
    const at::Tensor weight = source.at(module + ".weight");
    const QuantizedLinear linear = Round(
        weight, SpecOf(GetParam().format, GetParam().group_size, "bfloat16"));
    EXPECT_TRUE(
        linear.scales.equal(peer.at(module + ".weight_scale").to(at::kFloat)))
        << module;
    const at::Tensor groups = weight.view({-1, linear.group_size});
    const at::Tensor quotient = groups.div(linear.scales.view({-1, 1}))
                                    .to(at::kBFloat16)
                                    .to(at::kFloat);
    const Grid units{at::ones({groups.size(0)}),
                     at::full({groups.size(0)}, (format.max_code() + 1) / 2)};
    // Code i of a row at bit i * bits.
    const at::Tensor shifts = at::arange(0, 32, bits, at::kInt);
    const at::Tensor codes = packed.unsqueeze(2)
                                 .bitwise_right_shift(shifts)
                                 .bitwise_and(format.max_code())
                                 .to(at::kByte)
                                 .flatten(1);
    EXPECT_TRUE(
        format.Nearest(quotient, units).view(weight.sizes()).equal(codes))
        << module;
    ++modules;
  }
  EXPECT_EQ(modules, 14);
}

INSTANTIATE_TEST_SUITE_P(
    Checkpoints, IntegerPeerTest,
    testing::Values(PeerCase{"llmc_w8a16_channel_rtn", "int8", -1},
                    PeerCase{"llmc_w4a16_g32_sym_rtn", "int4", 32},
                    PeerCase{"llmc_w2a16_g32_sym_rtn", "int2", 32}),
    [](const auto& test) { return std::string(test.param.folder); });

}  // namespace
}  // namespace quantd::formats
