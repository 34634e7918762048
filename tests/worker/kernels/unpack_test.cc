// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "worker/kernels/unpack_cpu.h"

namespace quantd::kernels {
namespace {

// Bit by bit, as the header says it.
uint8_t CodeAt(const std::vector<uint8_t>& packed, int bits, int64_t index) {
  uint8_t code = 0;
  for (int b = 0; b < bits; ++b) {
    const int64_t bit = index * bits + b;
    code |= ((packed[bit / 8] >> (bit % 8)) & 1) << b;
  }
  return code;
}

TEST(UnpackRowTest, GivesTheCodesOfEveryWidthAndLength) {
  std::mt19937 random(1);
  for (int bits = 1; bits <= 8; ++bits) {
    for (const int64_t columns : {1, 7, 8, 31, 32, 33, 64, 200}) {
      std::vector<uint8_t> packed((columns + 7) / 8 * bits);
      for (uint8_t& byte : packed) byte = static_cast<uint8_t>(random());
      constexpr uint8_t kUntouched = 0xee;
      std::vector<uint8_t> codes(columns + 1, kUntouched);
      UnpackRow(packed.data(), bits, columns, codes.data());
      for (int64_t i = 0; i < columns; ++i) {
        EXPECT_EQ(codes[i], CodeAt(packed, bits, i)) << bits << " " << i;
      }
      EXPECT_EQ(codes[columns], kUntouched);
    }
  }
}

}  // namespace
}  // namespace quantd::kernels
