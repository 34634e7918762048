// SPDX-License-Identifier: Apache-2.0
#include "worker/models/linear.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "worker/formats/format.h"
#include "worker/models/packed_codes.h"

namespace quantd::models {
namespace {

// Values without a pattern, in [-1, 1).
at::Tensor Noise(at::IntArrayRef shape, uint64_t seed) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  std::vector<float> values;
  uint64_t state = seed;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    values.push_back(static_cast<float>(state >> 40) * 0x1p-23f - 1.0f);
  }
  return at::tensor(values).view(shape);
}

TEST(PackedCodesTest, TakesTheBytesThatTheBitsNeed) {
  // 1, 2, 3, ... of three bits: 0x88, 0xC6, 0xFA, lowest bits first.
  const at::Tensor codes =
      at::tensor({0, 1, 2, 3, 4, 5, 6, 7}).to(at::kByte).view({1, 8});
  const at::Tensor packed = PackCodes(codes, 3);
  EXPECT_TRUE(
      packed.equal(at::tensor({0x88, 0xC6, 0xFA}).to(at::kByte).view({1, 3})));
}

TEST(PackedCodesTest, ComesBackForEveryWidthAndOddLengths) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (const int64_t columns : {1, 7, 8, 9, 130}) {
      const at::Tensor codes = at::arange(3 * columns)
                                   .mul(37)
                                   .remainder(1 << bits)
                                   .to(at::kByte)
                                   .view({3, columns});
      const at::Tensor packed = PackCodes(codes, bits);
      EXPECT_EQ(packed.size(1), (columns + 7) / 8 * bits);
      EXPECT_TRUE(UnpackCodes(packed, bits, columns).equal(codes));
      EXPECT_TRUE(UnpackCodesByOperations(packed, bits, columns).equal(codes))
          << bits << " bits, " << columns << " columns";
    }
  }
}

TEST(DenseLinearTest, MultipliesByTheTransposedWeightAndAddsTheBias) {
  const auto linear = MakeDenseLinear(
      at::tensor({1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f}).view({3, 2}),
      at::tensor({0.5f, 0.0f, -1.0f}));
  const at::Tensor output =
      linear->Apply(at::tensor({1.0f, 10.0f}).view({1, 2}));
  EXPECT_TRUE(output.equal(at::tensor({21.5f, 43.0f, 64.0f}).view({1, 3})));
  EXPECT_EQ(linear->out_features(), 3);
  EXPECT_EQ(linear->in_features(), 2);
  EXPECT_EQ(linear->weight_bytes(), 9 * 4);
}

struct PackedCase {
  const char* format;
  int64_t out;
  int64_t in;
  int64_t group_size;
  bool symmetric;
};

class PackedLinearTest : public ::testing::TestWithParam<PackedCase> {};

TEST_P(PackedLinearTest, ComputesTheBitsOfTheDequantizedWeight) {
  const PackedCase& c = GetParam();
  const auto linear = formats::RoundToNearest(Noise({c.out, c.in}, 1),
                                              {.format = c.format,
                                               .group_size = c.group_size,
                                               .symmetric = c.symmetric,
                                               .scale_dtype = "float16"});
  ASSERT_TRUE(linear.ok()) << linear.status();
  const at::Tensor bias = Noise({c.out}, 2);
  const auto dense = MakeDenseLinear(formats::Dequantize(*linear), bias);
  const auto packed = MakePackedLinear(*linear, bias);
  EXPECT_TRUE(packed->DenseWeight().equal(dense->DenseWeight()));
  for (const int64_t tokens : {1, 3, 65}) {
    const at::Tensor input = Noise({tokens, c.in}, 3);
    EXPECT_TRUE(packed->Apply(input).equal(dense->Apply(input))) << tokens;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, PackedLinearTest,
    ::testing::Values(PackedCase{"int4", 64, 128, 32, true},
                      PackedCase{"int4", 1100, 96, 32, false},
                      PackedCase{"int3", 513, 200, 64, false},
                      PackedCase{"int2", 16, 40, -1, true},
                      PackedCase{"int5", 16, 33, 8, false},
                      PackedCase{"int6", 16, 64, 64, true},
                      PackedCase{"int8", 512, 72, 24, false}));

TEST(PackedLinearTest, KeepsGroupsThatFollowAnIndex) {
  auto linear = formats::RoundToNearest(Noise({8, 16}, 1),
                                        {.format = "int4", .group_size = 8});
  ASSERT_TRUE(linear.ok()) << linear.status();
  // Odd columns are of the second group.
  linear->group_index = at::arange(16).remainder(2).to(at::kInt);
  EXPECT_TRUE(MakePackedLinear(*linear, {})
                  ->DenseWeight()
                  .equal(formats::Dequantize(*linear)));
}

TEST(PackedLinearTest, HoldsCodesAtTheirWidthAndScalesAsStored) {
  const auto linear = formats::RoundToNearest(
      Noise({64, 128}, 1), {.format = "int3", .group_size = 32});
  ASSERT_TRUE(linear.ok()) << linear.status();
  const int64_t codes = 64 * 128 * 3 / 8;
  const int64_t groups = 64 * 4;
  EXPECT_EQ(MakePackedLinear(*linear, {})->weight_bytes(),
            codes + groups * (2 + 1));
}

}  // namespace
}  // namespace quantd::models
