// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/worker/formats/peer_tensors.h"
#include "worker/formats/dynamic_map.h"

namespace quantd::formats {
namespace {

int CodeOf(const std::string& id, float value) {
  return FormatOf(id)
      .Nearest(at::tensor({value}).view({1, 1}), {at::ones({1}), at::Tensor()})
      .item<int>();
}

TEST(Nf4Test, LevelsAreThePublishedBits) {
  const uint32_t bits[] = {0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0,
                           0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0x00000000,
                           0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a,
                           0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000};
  const at::Tensor levels = FormatOf("nf4").levels();
  ASSERT_EQ(levels.numel(), 16);
  EXPECT_EQ(std::memcmp(levels.const_data_ptr<float>(), bits, sizeof(bits)), 0);
}

TEST(Nf4Test, DecisionsAreAtThePublishedThresholds) {
  // Of the CUDA kernels, which lie within two units in the last place of the
  // middles.
  const float thresholds[] = {
      -0.8480964004993439f,   -0.6106329262256622f,  -0.4599952697753906f,
      -0.33967943489551544f,  -0.23460740596055984f, -0.13791173323988914f,
      -0.045525018125772476f, 0.03979014977812767f,  0.1202552504837513f,
      0.2035212516784668f,    0.2920137718319893f,   0.3893125355243683f,
      0.5016634166240692f,    0.6427869200706482f,   0.8614784181118011f};
  for (int code = 0; code < 15; ++code) {
    const float width = 4e-7f * std::abs(thresholds[code]);
    EXPECT_EQ(CodeOf("nf4", thresholds[code] - width), code);
    EXPECT_EQ(CodeOf("nf4", thresholds[code] + width), code + 1);
  }
}

TEST(Nf4Test, TiesGoDown) {
  // The halves of 0's neighbours are float32 numbers.
  const at::Tensor levels = FormatOf("nf4").levels();
  const float above = levels[8].item<float>() / 2;
  const float below = levels[6].item<float>() / 2;
  EXPECT_EQ(CodeOf("nf4", above), 7);
  EXPECT_EQ(CodeOf("nf4", std::nextafter(above, 1.0f)), 8);
  EXPECT_EQ(CodeOf("nf4", below), 6);
  EXPECT_EQ(CodeOf("nf4", std::nextafter(below, 1.0f)), 7);
}

TEST(Fp4BitsandbytesTest, LevelsAreThePublishedTwelfths) {
  const double twelfths[] = {0, 0.0625, 8, 12, 4, 6, 2, 3};
  const at::Tensor levels = FormatOf("fp4_bnb").levels();
  for (int code = 0; code < 8; ++code) {
    const float value = static_cast<float>(twelfths[code] / 12);
    EXPECT_EQ(levels[code].item<float>(), value);
    EXPECT_EQ(levels[code + 8].item<float>(), -value);
  }
}

TEST(Fp4BitsandbytesTest, TheSecondZeroIsForWhatLiesAboveZero) {
  EXPECT_EQ(CodeOf("fp4_bnb", 0.0f), 0);
  EXPECT_EQ(CodeOf("fp4_bnb", -0.0f), 0);
  EXPECT_EQ(CodeOf("fp4_bnb", 0.001f), 8);
  EXPECT_EQ(CodeOf("fp4_bnb", -0.001f), 0);
  // Middles go to the smaller level, of either sign.
  const float middle = (0.0625f / 12 + 2.0f / 12) / 2;
  EXPECT_EQ(CodeOf("fp4_bnb", middle), 1);
  EXPECT_EQ(CodeOf("fp4_bnb", -middle), 14);
}

class TableTest : public testing::TestWithParam<const char*> {};

TEST_P(TableTest, TableTimesAScaleComesBack) {
  const at::Tensor levels = FormatOf(GetParam()).levels().nan_to_num(0);
  const at::Tensor weight = levels.mul(0.37f).view({1, 16});
  const auto linear = RoundToNearest(weight, SpecOf(GetParam(), 64));
  ASSERT_TRUE(linear.ok()) << linear.status();
  EXPECT_EQ(linear->scales.item<float>(), 0.37f);
  EXPECT_TRUE(Dequantize(*linear).equal(weight));
}

TEST_P(TableTest, BlocksWithoutAReciprocalBecomeZero) {
  for (const float value : {0.0f, 1e-45f, 2e-39f}) {
    at::Tensor weight = at::zeros({1, 64});
    weight[0][1] = value;
    const auto linear = RoundToNearest(weight, SpecOf(GetParam(), 64));
    ASSERT_TRUE(linear.ok());
    EXPECT_TRUE(Dequantize(*linear).eq(0).all().item<bool>()) << value;
  }
}

TEST_P(TableTest, DoubleQuantizationTakesATwentieth) {
  const WeightSpec plain = SpecOf(GetParam(), 64);
  const WeightSpec twice = With(plain, "double_quant");
  EXPECT_EQ(FormatOf(GetParam()).BitsPerWeight(plain, 4096), 4.5);
  EXPECT_NEAR(FormatOf(GetParam()).BitsPerWeight(twice, 4096), 4.127, 5e-4);
}

INSTANTIATE_TEST_SUITE_P(Tables, TableTest, testing::Values("nf4", "fp4_bnb"));

TEST(DynamicMapTest, EndsAndStepsAreThePublishedOnes) {
  const at::Tensor map = DynamicMap();
  ASSERT_EQ(map.numel(), 256);
  EXPECT_TRUE(
      map.narrow(0, 1, 255).gt(map.narrow(0, 0, 255)).all().item<bool>());
  EXPECT_FLOAT_EQ(map[0].item<float>(), -0.99296875f);
  EXPECT_EQ(map[127].item<float>(), 0);
  EXPECT_FLOAT_EQ(map[128].item<float>(), 5.5e-7f);
  EXPECT_EQ(map[255].item<float>(), 1);
}

TEST(DynamicMapTest, BlocksOf256HaveTheirOwnScale) {
  const at::Tensor values = at::arange(600).to(at::kFloat).mul(0.01).add(1);
  const DynamicCodes coded = EncodeDynamic(values);
  EXPECT_EQ(coded.absmax.numel(), 3);
  const at::Tensor back = DecodeDynamic(coded);
  // The widest step of the map is 0.0140625 of the block's largest.
  for (int64_t i = 0; i < 600; ++i) {
    EXPECT_NEAR(back[i].item<float>(), values[i].item<float>(),
                0.0071 * coded.absmax[i / 256].item<float>() + 1e-6);
  }
}

TEST(DynamicMapTest, EqualValuesComeBack) {
  const at::Tensor values = at::ones({300}).mul(0.25);
  EXPECT_TRUE(DecodeDynamic(EncodeDynamic(values)).equal(values));
}

// The published vectors: every table, block size, dtype, with and without
// double quantization.
class VectorTest : public testing::TestWithParam<std::string> {
 protected:
  std::string id() const {
    return absl::StartsWith(GetParam(), "nf4") ? "nf4" : "fp4_bnb";
  }
  WeightSpec spec() const {
    const WeightSpec plain =
        SpecOf(id(), absl::StrContains(GetParam(), "b128") ? 128 : 64);
    return absl::StrContains(GetParam(), "_dq_") ? With(plain, "double_quant")
                                                 : plain;
  }
};

TEST_P(VectorTest, CodesScalesAndValuesAreThePeers) {
  SKIP_WITHOUT_TEST_DATA();
  const auto peer = ReadFixture("bnb/vectors.safetensors");
  const auto part = [&](const std::string& name) {
    return peer.at(GetParam() + "." + name);
  };
  const std::string dtype = GetParam().substr(GetParam().rfind('_') + 1);
  const at::Tensor stored = peer.at("src." + dtype);
  // The peer's blocks run across rows.
  const at::Tensor weight = stored.to(at::kFloat).view({-1, spec().group_size});
  const auto linear = RoundToNearest(weight, spec());
  ASSERT_TRUE(linear.ok()) << linear.status();
  const at::Tensor codes = Nibbles(part("packed"), false, weight.sizes());
  if (spec().params.empty()) {
    EXPECT_TRUE(linear->scales.flatten().equal(part("absmax")));
  } else {
    EXPECT_TRUE(DynamicMap().equal(part("nested_code")));
    EXPECT_TRUE(linear->parts.at("nested_offset").equal(part("offset")));
    EXPECT_TRUE(linear->parts.at("nested_absmax").equal(part("nested_absmax")));
    EXPECT_TRUE(linear->parts.at("absmax_codes").equal(part("absmax")));
  }
  EXPECT_TRUE(linear->codes.equal(codes));
  // The peer's own dequantization takes other scales where blocks run across
  // rows.
  if (stored.size(1) % spec().group_size != 0) return;
  EXPECT_TRUE(Dequantize(*linear)
                  .view(stored.sizes())
                  .to(stored.scalar_type())
                  .equal(part("dequant")));
}

INSTANTIATE_TEST_SUITE_P(
    Cases, VectorTest,
    testing::Values("nf4_b64_nodq_f32", "nf4_b64_nodq_bf16", "nf4_b64_nodq_f16",
                    "nf4_b64_dq_f32", "nf4_b64_dq_bf16", "nf4_b64_dq_f16",
                    "nf4_b128_nodq_f32", "nf4_b128_dq_f32", "fp4_b64_nodq_f32",
                    "fp4_b64_nodq_bf16", "fp4_b64_nodq_f16", "fp4_b64_dq_f32",
                    "fp4_b64_dq_bf16", "fp4_b64_dq_f16", "fp4_b128_nodq_f32",
                    "fp4_b128_dq_f32"),
    [](const auto& test) { return test.param; });

// What the peer's CPU kernel makes of `linear`'s scales: it looks their codes
// up by the value in steps of 2/65535.
at::Tensor LookedUp(const QuantizedLinear& linear, const at::Tensor& scales) {
  const at::Tensor& absmax = linear.parts.at("nested_absmax");
  const at::Tensor rest = scales.sub(linear.parts.at("nested_offset"));
  at::Tensor codes = at::zeros({rest.numel()}, at::kByte);
  for (int64_t i = 0; i < rest.numel(); ++i) {
    const float unit = 1.0f / absmax[i / kDynamicBlock].item<float>();
    const float step =
        std::nearbyint((rest[i].item<float>() * unit + 1) * 32767.5f);
    codes[i] =
        kernels::NearestLevel(step / 32767.5f - 1, DynamicMapTable().rule);
  }
  return codes;
}

class CheckpointTest : public testing::TestWithParam<const char*> {};

TEST_P(CheckpointTest, EveryLayerIsThePeers) {
  SKIP_WITHOUT_TEST_DATA();
  const bool twice = absl::StrContains(GetParam(), "_dq");
  const WeightSpec plain =
      SpecOf(absl::StrContains(GetParam(), "nf4") ? "nf4" : "fp4_bnb", 64);
  const auto source = ReadFixture("quantized/source_fp32/model.safetensors");
  const auto peer =
      ReadFixture(absl::StrCat("bnb/", GetParam(), "/model.safetensors"));
  int modules = 0;
  for (const auto& [name, absmax] : peer) {
    if (!absl::EndsWith(name, ".weight.absmax")) continue;
    const std::string tensor = name.substr(0, name.size() - 7);
    const at::Tensor weight = source.at(tensor);
    const auto linear =
        RoundToNearest(weight, twice ? With(plain, "double_quant") : plain);
    ASSERT_TRUE(linear.ok()) << linear.status();
    EXPECT_TRUE(
        linear->codes.equal(Nibbles(peer.at(tensor), false, weight.sizes())))
        << tensor;
    EXPECT_TRUE(FormatOf(linear->format)
                    .levels()
                    .nan_to_num(0)
                    .equal(peer.at(tensor + ".quant_map")))
        << tensor;
    if (twice) {
      const auto once = RoundToNearest(weight, plain);
      EXPECT_TRUE(LookedUp(*linear, once->scales.flatten()).equal(absmax))
          << tensor;
      // Ours are the nearest: hardly another, and never farther than the next.
      const at::Tensor moved = linear->parts.at("absmax_codes")
                                   .to(at::kInt)
                                   .sub(absmax.to(at::kInt))
                                   .abs();
      EXPECT_LE(moved.max().item<int>(), 1) << tensor;
      EXPECT_LT(moved.sum().item<int>(), absmax.numel() / 20) << tensor;
      EXPECT_TRUE(linear->parts.at("nested_absmax")
                      .equal(peer.at(tensor + ".nested_absmax")))
          << tensor;
    } else {
      EXPECT_TRUE(linear->scales.flatten().equal(absmax)) << tensor;
    }
    ++modules;
  }
  EXPECT_EQ(modules, 14);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, CheckpointTest,
                         testing::Values("tiny_nf4_dq", "tiny_fp4_nodq"),
                         [](const auto& test) {
                           return std::string(test.param);
                         });

}  // namespace
}  // namespace quantd::formats
