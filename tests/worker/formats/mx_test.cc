// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/match.h"
#include "tests/worker/formats/peer_tensors.h"

namespace quantd::formats {
namespace {

constexpr int64_t kBlock = 32;

struct Element {
  const char* id;
  float largest;
  int exponent;  // Of the largest power of two.
};
const Element kElements[] = {
    {"mxfp4", 6, 2},        {"mxfp6_e2m3", 7.5, 2},    {"mxfp6_e3m2", 28, 4},
    {"mxfp8_e4m3", 448, 8}, {"mxfp8_e5m2", 57344, 15}, {"mxint8", 1.984375, 0}};

QuantizedLinear Round(const std::string& id, const at::Tensor& weight,
                      const std::string& rule = "even") {
  const auto linear =
      RoundToNearest(weight, With(SpecOf(id, kBlock), "scale_rule", rule));
  EXPECT_TRUE(linear.ok()) << linear.status();
  return *linear;
}

// The E8M0 byte of a block whose largest magnitude is `amax`.
int ScaleByte(const std::string& id, float amax, const std::string& rule) {
  at::Tensor weight = at::zeros({1, kBlock});
  weight[0][7] = -amax;
  const float scale = Round(id, weight, rule).scales.item<float>();
  return static_cast<int>(std::log2(static_cast<double>(scale))) + 127;
}

class MxTest : public testing::TestWithParam<Element> {};

TEST(MxScaleTest, PublishedBytesOfTheRulesForE2m1) {
  for (const float amax : {4.0f, 5.0f, 6.0f}) {
    for (const char* rule : {"floor", "even", "rceil"}) {
      EXPECT_EQ(ScaleByte("mxfp4", amax, rule), 127) << amax << rule;
    }
  }
  EXPECT_EQ(ScaleByte("mxfp4", 6.5f, "floor"), 127);
  EXPECT_EQ(ScaleByte("mxfp4", 6.5f, "even"), 127);
  EXPECT_EQ(ScaleByte("mxfp4", 6.5f, "rceil"), 128);
  for (const float amax : {7.0f, 7.5f, 7.99f}) {
    EXPECT_EQ(ScaleByte("mxfp4", amax, "floor"), 127) << amax;
    EXPECT_EQ(ScaleByte("mxfp4", amax, "even"), 128) << amax;
    EXPECT_EQ(ScaleByte("mxfp4", amax, "rceil"), 128) << amax;
  }
  for (const char* rule : {"floor", "even", "rceil", "ceil"}) {
    EXPECT_EQ(ScaleByte("mxfp4", 8, rule), 128) << rule;
  }
  EXPECT_EQ(ScaleByte("mxfp4", 4, "ceil"), 127);
  EXPECT_EQ(ScaleByte("mxfp4", std::nextafter(4.0f, 5.0f), "ceil"), 128);
  EXPECT_EQ(ScaleByte("mxfp4", std::nextafter(6.0f, 7.0f), "rceil"), 128);
}

TEST(MxScaleTest, EvenRoundsToTheMantissaOfTheElement) {
  // 1.75: half of E2M1's and, as the peer has it, of the eight-bit floats'.
  EXPECT_EQ(ScaleByte("mxfp8_e4m3", 1.74f, "even"), 119);
  EXPECT_EQ(ScaleByte("mxfp8_e4m3", 1.75f, "even"), 120);
  EXPECT_EQ(ScaleByte("mxfp8_e5m2", 1.75f, "even"), 113);
  // 1.875 with two bits of mantissa, 1.9375 with three, 1.9921875 with six.
  EXPECT_EQ(ScaleByte("mxfp6_e3m2", 1.874f, "even"), 123);
  EXPECT_EQ(ScaleByte("mxfp6_e3m2", 1.875f, "even"), 124);
  EXPECT_EQ(ScaleByte("mxfp6_e2m3", 1.937f, "even"), 125);
  EXPECT_EQ(ScaleByte("mxfp6_e2m3", 1.9375f, "even"), 126);
  EXPECT_EQ(ScaleByte("mxint8", 1.992f, "even"), 127);
  EXPECT_EQ(ScaleByte("mxint8", 1.9921875f, "even"), 128);
}

// ggml takes the first of the nearest of its 16 values, whose order is that of
// the codes: never the second zero, and of two that are equally near the
// smaller one.
TEST(MxScaleTest, FloorGivesTheBlocksOfGgmlButForTiesAndTheSignOfZero) {
  SKIP_WITHOUT_TEST_DATA();
  const auto blocks = ReadFixture("gguf/blocks.safetensors");
  const at::Tensor weight = blocks.at("MXFP4.quant.src");
  const at::Tensor bytes = blocks.at("MXFP4.quant.bytes");
  const QuantizedLinear linear = Round("mxfp4", weight, "floor");
  EXPECT_TRUE(
      linear.scales.log2().add(127).to(at::kByte).equal(bytes.narrow(1, 0, 1)));
  const at::Tensor nibbles = bytes.narrow(1, 1, kBlock / 2);
  const at::Tensor theirs =
      at::cat({nibbles.bitwise_and(15), nibbles.bitwise_right_shift(4)}, 1);
  const at::Tensor ours = linear.codes.masked_fill(linear.codes.eq(8), 0);
  const at::Tensor units = weight.abs().div(linear.scales);
  at::Tensor tie = units.eq(0.25);
  for (const double middle : {0.75, 1.25, 1.75, 2.5, 3.5, 5.0}) {
    tie = tie.logical_or(units.eq(middle));
  }
  EXPECT_TRUE(ours.eq(theirs).logical_or(tie).all().item<bool>());
  const at::Tensor values = Dequantize(linear);
  const at::Tensor other = blocks.at("MXFP4.quant.f32");
  EXPECT_TRUE(values.eq(other).logical_or(tie).all().item<bool>());
  // Of the ties some have the even code on the larger side.
  EXPECT_TRUE(values.abs().ge(other.abs()).all().item<bool>());
  EXPECT_EQ(values.ne(other).sum().item<int64_t>(), 2);
}

TEST_P(MxTest, EveryCodePointComesBack) {
  const Format& format = FormatOf(GetParam().id);
  const at::Tensor finite = at::isfinite(format.levels());
  const at::Tensor levels = format.levels().masked_select(finite);
  const at::Tensor codes =
      at::arange(format.max_code() + 1).masked_select(finite).view({-1, 1});
  // A block of one level and the largest one, which fixes the scale.
  at::Tensor weight = at::full({levels.numel(), kBlock}, GetParam().largest);
  weight.select(1, 5).copy_(levels);
  const QuantizedLinear linear = Round(GetParam().id, weight, "rceil");
  EXPECT_TRUE(linear.scales.eq(1).all().item<bool>());
  EXPECT_TRUE(linear.codes.narrow(1, 5, 1).to(at::kLong).equal(codes));
  EXPECT_TRUE(Dequantize(linear).equal(weight));
}

TEST_P(MxTest, FloorPutsTheLargestInTheLastBinade) {
  const at::Tensor weight = Normal(64, kBlock, 1);
  const QuantizedLinear linear = Round(GetParam().id, weight, "floor");
  const at::Tensor top = weight.abs().amax(1).div(linear.scales.flatten());
  EXPECT_TRUE(top.ge(std::ldexp(1.0f, GetParam().exponent)).all().item<bool>());
  EXPECT_TRUE(
      top.lt(std::ldexp(1.0f, GetParam().exponent + 1)).all().item<bool>());
}

TEST_P(MxTest, TheRulesThatRoundUpNeverClip) {
  const at::Tensor weight = Normal(64, kBlock, 2);
  const at::Tensor amax = weight.abs().amax(1, true);
  for (const char* rule : {"rceil", "ceil"}) {
    const QuantizedLinear linear = Round(GetParam().id, weight, rule);
    // Ceil means the last power of two, which the integers fall just short of.
    const double reach = rule[0] == 'c' ? std::ldexp(1.0, GetParam().exponent)
                                        : GetParam().largest;
    EXPECT_TRUE(linear.scales.mul(reach).ge(amax).all().item<bool>()) << rule;
  }
}

TEST_P(MxTest, PowersOfTwoAndSignsPassThrough) {
  const at::Tensor weight = Normal(16, 2 * kBlock, 3);
  for (const char* rule : {"floor", "ceil", "even", "rceil"}) {
    const at::Tensor value = Dequantize(Round(GetParam().id, weight, rule));
    for (const float factor : {1024.0f, 1.0f / 64}) {
      EXPECT_TRUE(Dequantize(Round(GetParam().id, weight.mul(factor), rule))
                      .equal(value.mul(factor)));
    }
    EXPECT_TRUE(Dequantize(Round(GetParam().id, weight.neg(), rule))
                    .equal(value.neg()));
  }
}

TEST_P(MxTest, ZerosAndExtremesStayInTheRangeOfTheScale) {
  at::Tensor weight = at::zeros({5, kBlock});
  weight[1][0] = 1e-45f;
  weight[2][0] = 1e-38f;
  weight[3][0] = 3e38f;
  weight[4][0] = -3.4e38f;
  for (const char* rule : {"floor", "ceil", "even", "rceil"}) {
    const QuantizedLinear linear = Round(GetParam().id, weight, rule);
    EXPECT_EQ(linear.scales[0].item<float>(), std::ldexp(1.0f, -127));
    EXPECT_EQ(linear.scales[1].item<float>(), std::ldexp(1.0f, -127));
    const at::Tensor value = Dequantize(linear);
    EXPECT_TRUE(at::isfinite(value).all().item<bool>());
    EXPECT_TRUE(value[0].eq(0).all().item<bool>());
    EXPECT_GT(value[3][0].item<float>(), 1.5e38f);
    EXPECT_LT(value[4][0].item<float>(), -1.5e38f);
  }
}

TEST_P(MxTest, AShortLastBlockIsThatBlockFilledWithZeros) {
  const at::Tensor weight = Normal(6, kBlock + 9, 4);
  const QuantizedLinear linear = Round(GetParam().id, weight);
  ASSERT_EQ(linear.num_groups(), 2);
  const at::Tensor padded = at::cat({weight, at::zeros({6, kBlock - 9})}, 1);
  const QuantizedLinear whole = Round(GetParam().id, padded);
  EXPECT_TRUE(linear.scales.equal(whole.scales));
  EXPECT_TRUE(linear.codes.equal(whole.codes.narrow(1, 0, kBlock + 9)));
}

TEST_P(MxTest, ElementsTakeAByteOfScaleForThirtyTwo) {
  const Format& format = FormatOf(GetParam().id);
  EXPECT_EQ(format.fixed_group_size(), kBlock);
  EXPECT_EQ(format.BitsPerWeight(SpecOf(GetParam().id, kBlock), 4096),
            format.bits() + 0.25);
}

INSTANTIATE_TEST_SUITE_P(Elements, MxTest, testing::ValuesIn(kElements),
                         [](const auto& test) {
                           return std::string(test.param.id);
                         });

TEST(Mxint8Test, CodesAreTwosComplementSixtyFourths) {
  at::Tensor weight = at::zeros({1, kBlock});
  weight[0][0] = -127.0f / 64;
  weight[0][1] = 1.5f / 64;   // Tie: to even.
  weight[0][2] = -2.5f / 64;  // Tie: to even.
  weight[0][3] = -1.0f / 64;
  const QuantizedLinear linear = Round("mxint8", weight);
  EXPECT_EQ(linear.scales.item<float>(), 1);
  EXPECT_EQ(linear.codes[0][0].item<int>(), 0x81);
  EXPECT_EQ(linear.codes[0][1].item<int>(), 2);
  EXPECT_EQ(linear.codes[0][2].item<int>(), 0xfe);
  EXPECT_EQ(linear.codes[0][3].item<int>(), 0xff);
  EXPECT_TRUE(std::isnan(FormatOf("mxint8").levels()[0x80].item<float>()));
}

struct PeerCase {
  const char* folder;
  const char* id;
};

class MxPeerTest : public testing::TestWithParam<PeerCase> {};

TEST_P(MxPeerTest, BytesAreThoseOfThePeer) {
  SKIP_WITHOUT_TEST_DATA();
  const auto source = ReadFixture("quantized/source_fp32/model.safetensors");
  const auto peer = ReadFixture(std::string("quantized/") + GetParam().folder +
                                "/model.safetensors");
  int modules = 0;
  for (const auto& [name, bytes] : peer) {
    if (!absl::EndsWith(name, ".weight_scale")) continue;
    const std::string module = name.substr(0, name.size() - 13);
    const at::Tensor weight = source.at(module + ".weight");
    const QuantizedLinear linear = Round(GetParam().id, weight);
    EXPECT_TRUE(linear.scales.log2().add(127).to(at::kByte).equal(bytes))
        << module;
    const auto packed = peer.find(module + ".weight_packed");
    const at::Tensor codes =
        packed == peer.end()
            ? peer.at(module + ".weight").view(at::kByte)
            : Nibbles(packed->second, /*low_first=*/true, weight.sizes());
    EXPECT_TRUE(linear.codes.equal(codes)) << module;
    ++modules;
  }
  EXPECT_EQ(modules, 14);
}

INSTANTIATE_TEST_SUITE_P(
    Checkpoints, MxPeerTest,
    testing::Values(PeerCase{"llmc_mxfp4", "mxfp4"},
                    PeerCase{"llmc_mxfp4a16", "mxfp4"},
                    PeerCase{"llmc_mxfp8a16", "mxfp8_e4m3"}),
    [](const auto& test) { return std::string(test.param.folder); });

}  // namespace
}  // namespace quantd::formats
