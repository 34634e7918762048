// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Half.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "tests/worker/formats/peer_tensors.h"

namespace quantd::formats {
namespace {

struct Type {
  const char* id;
  int64_t block;
  bool has_minimum;
  double bits_per_weight;
};
const Type kTypes[] = {{"q4_0", 32, false, 4.5}, {"q4_1", 32, true, 5},
                       {"q5_0", 32, false, 5.5}, {"q5_1", 32, true, 6},
                       {"q8_0", 32, false, 8.5}, {"tq2_0", 256, false, 2.0625}};

QuantizedLinear Round(const Type& type, const at::Tensor& weight) {
  const auto linear = RoundToNearest(weight, SpecOf(type.id, type.block));
  EXPECT_TRUE(linear.ok()) << linear.status();
  return *linear;
}

const Type& TypeOf(const std::string& id) {
  for (const Type& type : kTypes) {
    if (id == type.id) return type;
  }
  return kTypes[0];
}

// One block of `values`, zeros behind them.
QuantizedLinear RoundBlock(const std::string& id,
                           const std::vector<float>& values) {
  const Type& type = TypeOf(id);
  at::Tensor weight = at::zeros({1, type.block});
  for (size_t i = 0; i < values.size(); ++i) {
    weight[0][static_cast<int64_t>(i)] = values[i];
  }
  return Round(type, weight);
}

int CodeAt(const QuantizedLinear& linear, int64_t column) {
  return linear.codes[0][column].item<int>();
}

// The block as ggml-common.h lays it out.
struct Block {
  float scale = 0;
  float minimum = 0;
  std::vector<int> codes;
};

float HalfAt(const uint8_t* from) {
  c10::Half value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

Block Unpack(const Type& type, const uint8_t* bytes) {
  const std::string id = type.id;
  Block block;
  if (id == "tq2_0") {
    for (int j = 0; j < 256; ++j) {
      const int byte = bytes[j / 128 * 32 + j % 32];
      block.codes.push_back(byte >> (j % 128 / 32 * 2) & 3);
    }
    block.scale = HalfAt(bytes + 64);
    return block;
  }
  block.scale = HalfAt(bytes);
  bytes += 2;
  if (type.has_minimum) {
    block.minimum = HalfAt(bytes);
    bytes += 2;
  }
  const uint8_t* upper = bytes;
  if (id[1] == '5') bytes += 4;
  for (int j = 0; j < 32; ++j) {
    if (id == "q8_0") {
      block.codes.push_back(bytes[j]);
      continue;
    }
    int code = bytes[j % 16] >> (j / 16 * 4) & 15;
    if (id[1] == '5') code |= (upper[j / 8] >> (j % 8) & 1) << 4;
    block.codes.push_back(code);
  }
  return block;
}

class GgmlTest : public testing::TestWithParam<Type> {};

TEST_P(GgmlTest, BlocksAreThoseOfTheReferenceByteForByte) {
  SKIP_WITHOUT_TEST_DATA();
  const auto blocks = ReadFixture("gguf/blocks.safetensors");
  const std::string name = absl::AsciiStrToUpper(GetParam().id) + ".quant.";
  const at::Tensor bytes = blocks.at(name + "bytes");
  const at::Tensor weight = blocks.at(name + "src");
  const QuantizedLinear linear = Round(GetParam(), weight);
  ASSERT_EQ(linear.offsets.defined(), GetParam().has_minimum);
  for (int64_t r = 0; r < weight.size(0); ++r) {
    const Block block = Unpack(GetParam(), bytes[r].const_data_ptr<uint8_t>());
    EXPECT_EQ(linear.scales[r].item<float>(), block.scale) << r;
    EXPECT_EQ(std::signbit(linear.scales[r].item<float>()),
              std::signbit(block.scale))
        << r;
    if (GetParam().has_minimum) {
      EXPECT_EQ(linear.offsets[r].item<float>(), block.minimum) << r;
    }
    for (int64_t c = 0; c < GetParam().block; ++c) {
      ASSERT_EQ(linear.codes[r][c].item<int>(), block.codes[c])
          << r << " " << c;
    }
  }
  EXPECT_TRUE(Dequantize(linear).equal(blocks.at(name + "f32")));
}

TEST_P(GgmlTest, TheValuesOfCodesAreTheBlocks) {
  SKIP_WITHOUT_TEST_DATA();
  const auto blocks = ReadFixture("gguf/blocks.safetensors");
  const std::string name = absl::AsciiStrToUpper(GetParam().id) + ".raw.";
  const at::Tensor bytes = blocks.at(name + "bytes");
  const at::Tensor values = blocks.at(name + "f32");
  const int64_t rows = values.size(0);
  QuantizedLinear linear;
  linear.format = GetParam().id;
  linear.out_features = rows;
  linear.in_features = linear.group_size = GetParam().block;
  linear.codes = at::zeros(values.sizes(), at::kByte);
  linear.scales = at::zeros({rows, 1});
  if (GetParam().has_minimum) linear.offsets = at::zeros({rows, 1});
  for (int64_t r = 0; r < rows; ++r) {
    const Block block = Unpack(GetParam(), bytes[r].const_data_ptr<uint8_t>());
    linear.scales[r][0] = block.scale;
    if (GetParam().has_minimum) linear.offsets[r][0] = block.minimum;
    for (int64_t c = 0; c < GetParam().block; ++c) {
      linear.codes[r][c] = block.codes[c];
    }
  }
  // Codes that no quantizer writes stand for nothing here.
  const at::Tensor ours = Dequantize(linear);
  const at::Tensor written = ours.isnan().logical_not();
  EXPECT_TRUE(ours.masked_select(written).equal(values.masked_select(written)));
  EXPECT_GT(written.sum().item<int64_t>(), written.numel() / 2);
}

TEST_P(GgmlTest, BitsPerWeightAreTheBytesOfABlock) {
  const Format& format = FormatOf(GetParam().id);
  EXPECT_EQ(format.fixed_group_size(), GetParam().block);
  EXPECT_EQ(format.BitsPerWeight(SpecOf(GetParam().id, GetParam().block), 4096),
            GetParam().bits_per_weight);
}

TEST_P(GgmlTest, ScalesAndMinimaAreFloat16WhateverTheRecipeSays) {
  const at::Tensor weight = Normal(16, 512, 1);
  const QuantizedLinear linear = Round(GetParam(), weight);
  const auto is_half = [](const at::Tensor& values) {
    return values.to(at::kHalf).to(at::kFloat).equal(values);
  };
  EXPECT_TRUE(is_half(linear.scales));
  if (GetParam().has_minimum) {
    EXPECT_TRUE(is_half(linear.offsets));
  }
}

TEST_P(GgmlTest, AShortLastBlockIsABlockOfTheValuesItHas) {
  const int64_t block = GetParam().block;
  const at::Tensor weight = Normal(6, block + 9, 4);
  const QuantizedLinear linear = Round(GetParam(), weight);
  ASSERT_EQ(linear.num_groups(), 2);
  const QuantizedLinear tail =
      Round(GetParam(), weight.narrow(1, block, 9).contiguous());
  EXPECT_TRUE(linear.scales.narrow(1, 1, 1).equal(tail.scales));
  EXPECT_TRUE(linear.codes.narrow(1, block, 9).equal(tail.codes));
  EXPECT_TRUE(Dequantize(linear).narrow(1, block, 9).equal(Dequantize(tail)));
}

TEST_P(GgmlTest, WhatFloat16CannotHoldSaturates) {
  at::Tensor weight = at::zeros({4, GetParam().block});
  weight[0][0] = 3e38f;
  weight[0][1] = -3e38f;
  weight[1][3] = 1e7f;
  weight[1][4] = 100;
  weight[2][0] = 1e-42f;
  weight[3][0] = -1e-12f;
  const QuantizedLinear linear = Round(GetParam(), weight);
  const at::Tensor values = Dequantize(linear);
  EXPECT_TRUE(at::isfinite(linear.scales).all().item<bool>());
  EXPECT_TRUE(at::isfinite(values).all().item<bool>());
  EXPECT_LE(linear.scales.abs().max().item<float>(), 65504);
  EXPECT_GT(values[0][0].item<float>(), 0);
  EXPECT_GE(values[1][3].item<float>(), 65504);
  EXPECT_TRUE(values[2].eq(0).all().item<bool>());
  EXPECT_TRUE(values[3].eq(0).all().item<bool>());
}

TEST_P(GgmlTest, NearestUsesTheStoredGrid) {
  const at::Tensor weight = Normal(32, GetParam().block, 5);
  const QuantizedLinear linear = Round(GetParam(), weight);
  Grid grid{.scale = linear.scales.flatten()};
  if (GetParam().has_minimum) grid.offset = linear.offsets.flatten();
  const Format& format = FormatOf(GetParam().id);
  // Every code's own value comes back.
  const at::Tensor values = Dequantize(linear);
  EXPECT_TRUE(format.Nearest(values, grid).equal(linear.codes));
}

INSTANTIATE_TEST_SUITE_P(Types, GgmlTest, testing::ValuesIn(kTypes),
                         [](const auto& test) {
                           return std::string(test.param.id);
                         });

TEST(GgmlBlockTest, TheOtherTernaryTypeHasTheSameNumbers) {
  SKIP_WITHOUT_TEST_DATA();
  const auto blocks = ReadFixture("gguf/blocks.safetensors");
  const QuantizedLinear linear =
      Round(TypeOf("tq2_0"), blocks.at("TQ1_0.quant.src"));
  EXPECT_TRUE(Dequantize(linear).equal(blocks.at("TQ1_0.quant.f32")));
}

TEST(GgmlBlockTest, TheFirstOfTheLargestMagnitudesStandsOnCodeZero) {
  const QuantizedLinear up = RoundBlock("q4_0", {1, 4, -4, 0.5f});
  EXPECT_EQ(up.scales.item<float>(), -0.5f);
  EXPECT_EQ(CodeAt(up, 1), 0);
  // -4 would be code 16.
  EXPECT_EQ(CodeAt(up, 2), 15);
  EXPECT_EQ(CodeAt(up, 0), 6);
  const QuantizedLinear down = RoundBlock("q4_0", {1, -4, 4, 0.5f});
  EXPECT_EQ(down.scales.item<float>(), 0.5f);
  EXPECT_EQ(CodeAt(down, 1), 0);
  EXPECT_EQ(CodeAt(down, 2), 15);
  EXPECT_EQ(CodeAt(down, 0), 10);
  EXPECT_EQ(RoundBlock("q5_0", {-8, 1}).scales.item<float>(), 0.5f);
}

TEST(GgmlBlockTest, HalvesGoUpOrAwayFromZero) {
  // Scale 1.
  const QuantizedLinear signed_codes =
      RoundBlock("q4_0", {-8, 0.5f, -0.5f, 1.5f, -1.5f});
  EXPECT_EQ(CodeAt(signed_codes, 1), 9);
  EXPECT_EQ(CodeAt(signed_codes, 2), 8);
  EXPECT_EQ(CodeAt(signed_codes, 3), 10);
  EXPECT_EQ(CodeAt(signed_codes, 4), 7);
  const QuantizedLinear bytes =
      RoundBlock("q8_0", {127, 0.5f, -0.5f, 1.5f, -1.5f});
  EXPECT_EQ(bytes.scales.item<float>(), 1);
  EXPECT_EQ(CodeAt(bytes, 1), 1);
  EXPECT_EQ(CodeAt(bytes, 2), 0xff);
  EXPECT_EQ(CodeAt(bytes, 3), 2);
  EXPECT_EQ(CodeAt(bytes, 4), 0xfe);
  const QuantizedLinear ternary =
      RoundBlock("tq2_0", {1, 0.5f, -0.5f, 0.49f, -0.49f, -1});
  EXPECT_EQ(CodeAt(ternary, 0), 2);
  EXPECT_EQ(CodeAt(ternary, 1), 2);
  EXPECT_EQ(CodeAt(ternary, 2), 0);
  EXPECT_EQ(CodeAt(ternary, 3), 1);
  EXPECT_EQ(CodeAt(ternary, 4), 1);
  EXPECT_EQ(CodeAt(ternary, 5), 0);
}

TEST(GgmlBlockTest, TheMinimumIsKeptAndABlockOfOneValueIsThatValue) {
  at::Tensor weight = at::full({2, 32}, 0.25f);
  weight[1].copy_(at::arange(32).to(at::kFloat).mul(0.25).sub(2));
  const QuantizedLinear linear = Round(TypeOf("q5_1"), weight);
  EXPECT_EQ(linear.scales[0].item<float>(), 0);
  EXPECT_EQ(linear.offsets[0].item<float>(), 0.25f);
  EXPECT_EQ(linear.scales[1].item<float>(), 0.25f);
  EXPECT_EQ(linear.offsets[1].item<float>(), -2);
  EXPECT_TRUE(Dequantize(linear).equal(weight));
}

TEST(GgmlBlockTest, CodesComeFromTheScaleBeforeItIsRounded) {
  // The scale is 0.1, which float16 holds as 0.0999755859375; 0.65 are 6.5
  // steps of the one and 6.5016 of the other.
  const float below = std::nextafter(0.65f, 0.0f) - 2e-6f;
  const QuantizedLinear linear = RoundBlock("q4_0", {-0.8f, below});
  EXPECT_EQ(linear.scales.item<float>(), 0.0999755859375f);
  EXPECT_EQ(CodeAt(linear, 1), 14);
  at::Tensor weight = at::zeros({1, 32});
  weight[0][0] = -0.8f;
  weight[0][1] = below;
  const Grid grid{.scale = linear.scales.flatten()};
  EXPECT_EQ(FormatOf("q4_0").Nearest(weight, grid)[0][1].item<int>(), 15);
}

}  // namespace
}  // namespace quantd::formats
