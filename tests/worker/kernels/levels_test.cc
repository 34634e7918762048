// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "worker/kernels/levels_cpu.h"

namespace quantd::kernels {
namespace {

// `size` levels 0, 1, 2 ... with codes from the top down, middles up.
LevelGridRule Steps(int size, bool reciprocal) {
  LevelGridRule rule;
  rule.size = size;
  rule.reciprocal = reciprocal;
  for (int i = 0; i < size; ++i) {
    rule.codes[i] = static_cast<uint8_t>(255 - i);
    rule.levels[rule.codes[i]] = static_cast<float>(i);
    rule.keys[i] = i == 0 ? std::numeric_limits<int32_t>::min()
                          : OrderedKey(static_cast<float>(i) - 0.5f);
  }
  return rule;
}

TEST(OrderedKeyTest, KeysAreInTheOrderOfTheirFloats) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float rising[] = {-infinity, -3e38f, -1.0f, -1e-45f, -0.0f,   0.0f,
                          1e-45f,    1e-38f, 1.0f,  3e38f,   infinity};
  for (size_t i = 0; i + 1 < std::size(rising); ++i) {
    EXPECT_LT(OrderedKey(rising[i]), OrderedKey(rising[i + 1])) << rising[i];
  }
}

TEST(RoundToLevelsTest, VectorsRoundAsSingleValuesDo) {
  std::mt19937 bits(1);
  std::uniform_real_distribution<float> uniform(-20, 300);
  for (const int size : {1, 2, 3, 15, 16, 17, 64, 255, 256}) {
    for (const bool reciprocal : {false, true}) {
      const LevelGridRule rule = Steps(size, reciprocal);
      for (const int columns : {0, 1, 7, 8, 31, 200}) {
        const std::vector<float> scales = {1, 0.37f, 0};
        std::vector<float> values(3 * columns);
        for (float& value : values) value = uniform(bits);
        std::vector<uint8_t> codes(3 * columns + 1, 7);
        RoundToLevels(values.data(), 3, columns, scales.data(), {rule},
                      codes.data());
        for (int i = 0; i < 3 * columns; ++i) {
          const float scale = scales[i / columns];
          EXPECT_EQ(codes[i],
                    NearestLevel(InUnits(values[i], scale, rule), rule));
        }
        EXPECT_EQ(codes[3 * columns], 7);  // Nothing behind the last.
      }
    }
  }
}

TEST(RoundToLevelsTest, EndsTakeWhatLiesBeyond) {
  const LevelGridRule rule = Steps(16, false);
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> values(16, infinity);
  values[3] = -infinity;
  values[4] = 14.5f;
  values[5] = std::nextafter(14.5f, 0.0f);
  std::vector<uint8_t> codes(16);
  const float scale = 1;
  RoundToLevels(values.data(), 1, 16, &scale, {rule}, codes.data());
  EXPECT_EQ(codes[0], 240);
  EXPECT_EQ(codes[3], 255);
  EXPECT_EQ(codes[4], 240);
  EXPECT_EQ(codes[5], 241);
}

}  // namespace
}  // namespace quantd::kernels
