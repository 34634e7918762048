// SPDX-License-Identifier: Apache-2.0
#include "worker/exports/code_packing.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace quantd::exports {
namespace {

std::vector<uint32_t> Words(const at::Tensor& words) {
  const auto* begin = reinterpret_cast<const uint32_t*>(
      static_cast<const int32_t*>(words.const_data_ptr()));
  return std::vector<uint32_t>(begin, begin + words.numel());
}

at::Tensor Codes(const std::vector<uint8_t>& values) {
  at::Tensor codes =
      at::empty({1, static_cast<int64_t>(values.size())}, at::kByte);
  for (size_t i = 0; i < values.size(); ++i) codes[0][i] = values[i];
  return codes;
}

// Constant words of symmetric zero points, as the layout's readers have them.
TEST(CodePackingTest, PacksTheKnownConstants) {
  const auto pack = [](int value, int bits) {
    return Words(PackRows(at::full({1, 32}, value, at::kByte), bits));
  };
  EXPECT_EQ(pack(1, 2), std::vector<uint32_t>(2, 0x55555555));
  EXPECT_EQ(pack(2, 2), std::vector<uint32_t>(2, 0xAAAAAAAA));
  EXPECT_EQ(pack(7, 4), std::vector<uint32_t>(4, 0x77777777));
  EXPECT_EQ(pack(8, 4), std::vector<uint32_t>(4, 0x88888888));
  EXPECT_EQ(pack(127, 8), std::vector<uint32_t>(8, 0x7F7F7F7F));
  EXPECT_EQ(pack(128, 8), std::vector<uint32_t>(8, 0x80808080));
  EXPECT_EQ(pack(3, 3),
            (std::vector<uint32_t>{0xDB6DB6DB, 0xB6DB6DB6, 0x6DB6DB6D}));
  EXPECT_EQ(pack(4, 3),
            (std::vector<uint32_t>{0x24924924, 0x49249249, 0x92492492}));
}

TEST(CodePackingTest, FirstCodeStandsInTheLowestBits) {
  std::vector<uint8_t> values(32, 0);
  for (int i = 0; i < 8; ++i) values[i] = i;
  EXPECT_EQ(Words(PackRows(Codes(values), 4))[0], 0x76543210u);
}

// Code 10 lies across the first two words: its low bits at 30 and 31, its high
// bit at 0 of the next.
TEST(CodePackingTest, ThreeBitCodesStraddleWords) {
  std::vector<uint8_t> values(32, 0);
  values[10] = 7;
  values[21] = 5;
  EXPECT_EQ(Words(PackRows(Codes(values), 3)),
            (std::vector<uint32_t>{0xC0000000, 0x80000001, 0x00000002}));
}

// Six bits: the low four of every code fill four words, the high two the next
// two.
TEST(CodePackingTest, PlanesHoldTheLowBitsOfAllCodesFirst) {
  std::vector<uint8_t> values(32, 0);
  values[0] = 0b110101;
  values[9] = 0b100001;
  values[31] = 0b011111;
  EXPECT_EQ(Words(PackPlanes(Codes(values), 6)),
            (std::vector<uint32_t>{0x5, 0x10, 0, 0xF0000000, 0x3 | 0x2u << 18,
                                   0x1u << 30}));
  // Five: the highest bit of code i is bit i of the last word.
  values[31] = 0b11111;
  values[0] = 0b10101;
  values[9] = 0b00001;
  EXPECT_EQ(
      Words(PackPlanes(Codes(values), 5)),
      (std::vector<uint32_t>{0x5, 0x10, 0, 0xF0000000, 0x1 | 0x1u << 31}));
}

TEST(CodePackingTest, PlanesReadBackAndOnePlaneIsTheStream) {
  for (int bits = 1; bits <= 8; ++bits) {
    const at::Tensor codes =
        at::randint(1 << bits, {5, 96}, at::kLong).to(at::kByte);
    const at::Tensor words = PackPlanes(codes, bits);
    ASSERT_EQ(words.size(1), 96 * bits / 32);
    EXPECT_TRUE(UnpackPlanes(words, bits).equal(codes)) << bits;
    const bool one = bits == 1 || bits == 2 || bits == 4 || bits == 8;
    EXPECT_EQ(words.equal(PackRows(codes, bits)), one) << bits;
  }
}

// Bit by bit, the slow way.
TEST(CodePackingTest, EveryWidthIsTheBitStream) {
  for (int bits = 1; bits <= 8; ++bits) {
    const at::Tensor codes =
        at::randint(1 << bits, {5, 96}, at::kLong).to(at::kByte);
    const at::Tensor words = PackRows(codes, bits);
    ASSERT_EQ(words.size(1), 96 * bits / 32);
    for (int64_t row = 0; row < 5; ++row) {
      const std::vector<uint32_t> stream = Words(words[row]);
      for (int64_t i = 0; i < 96; ++i) {
        int value = 0;
        for (int bit = 0; bit < bits; ++bit) {
          const int64_t at_bit = i * bits + bit;
          value |= (stream[at_bit / 32] >> (at_bit % 32) & 1) << bit;
        }
        ASSERT_EQ(value, codes[row][i].item<int>()) << bits << " bits, " << i;
      }
    }
  }
}

TEST(CodePackingTest, UnpackingIsTheInverse) {
  for (int bits = 1; bits <= 8; ++bits) {
    const at::Tensor codes =
        at::randint(1 << bits, {7, 64}, at::kLong).to(at::kByte);
    EXPECT_TRUE(UnpackRows(PackRows(codes, bits), bits).equal(codes)) << bits;
  }
}

}  // namespace
}  // namespace quantd::exports
