// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "worker/kernels/integer_grid.h"
#include "worker/kernels/row_ranges_cpu.h"

namespace quantd::kernels {
namespace {

std::vector<float> HeavyTailed(int64_t count, uint32_t seed) {
  std::mt19937 bits(seed);
  std::student_t_distribution<float> tailed(3);
  std::vector<float> values(count);
  for (float& value : values) value = 0.02f * tailed(bits);
  return values;
}

TEST(RowRangesTest, EndsOfRowsOfAnyLength) {
  for (const int64_t columns : {1, 2, 7, 8, 9, 64, 100}) {
    const std::vector<float> values = HeavyTailed(3 * columns, 1);
    float low[3], high[3];
    RowRanges({3, columns, values.data()}, low, high);
    for (int64_t r = 0; r < 3; ++r) {
      const auto [least, most] = std::minmax_element(
          values.begin() + r * columns, values.begin() + (r + 1) * columns);
      EXPECT_EQ(low[r], *least);
      EXPECT_EQ(high[r], *most);
    }
  }
}

TEST(RoundToGridsTest, VectorsRoundAsSingleValuesDo) {
  for (const int64_t columns : {1, 7, 8, 31, 128}) {
    const std::vector<float> values = HeavyTailed(3 * columns, 2);
    const float scales[] = {0.004f, -0.01f, 0.1f};
    const float zeros[] = {8, 3, 0};
    std::vector<uint8_t> codes(3 * columns + 1, 77);
    RoundToGrids({3, columns, values.data()}, scales, zeros, 15, codes.data());
    for (int64_t i = 0; i < 3 * columns; ++i) {
      const int64_t r = i / columns;
      EXPECT_EQ(codes[i], NearestCode(values[i], {scales[r], zeros[r]}, 15));
    }
    EXPECT_EQ(codes[3 * columns], 77);  // Nothing behind the last.
  }
}

double Error(const std::vector<float>& values, const GridChoice& choice,
             size_t k) {
  const IntegerGrid grid = {choice.scales[k], choice.zeros[k]};
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const float code = NearestCode(values[i], grid, choice.max_code);
    const double miss = double{(code - grid.zero) * grid.scale} - values[i];
    const double counts =
        choice.importance == nullptr ? 1 : choice.importance[i];
    sum += counts * std::pow(std::abs(miss), double{choice.norm});
  }
  return sum;
}

TEST(LeastErrorGridTest, NoGridIsBetter) {
  for (const int64_t columns : {1, 5, 32, 100, 128}) {
    for (const float norm : {0.5f, 1.0f, 2.0f, 2.4f, 8.0f}) {
      const std::vector<float> values = HeavyTailed(columns, 4);
      std::vector<float> importance = HeavyTailed(columns, 5);
      for (float& counts : importance) counts = std::abs(counts);
      for (const bool weighted : {false, true}) {
        GridChoice choice{.norm = norm};
        if (weighted) choice.importance = importance.data();
        for (int k = 0; k < 60; ++k) {
          choice.scales.push_back(0.02f - 0.0003f * static_cast<float>(k));
          choice.zeros.push_back(static_cast<float>(k % 4 + 6));
        }
        const int64_t best = LeastErrorGrid(values.data(), columns, choice);
        const double error = Error(values, choice, best);
        for (size_t k = 0; k < choice.scales.size(); ++k) {
          EXPECT_LE(error, Error(values, choice, k) * (1 + 1e-5));
        }
      }
    }
  }
}

TEST(LeastErrorGridTest, TheFirstOfEqualOnes) {
  const std::vector<float> zeros(40, 0.0f);
  const GridChoice choice{.scales = {1, 0.5f, 2}, .zeros = {8, 8, 8}};
  EXPECT_EQ(LeastErrorGrid(zeros.data(), 40, choice), 0);
}

TEST(LeastErrorGridTest, ErrorsBeyondFloatLeaveTheFirst) {
  const std::vector<float> large(8, 3e38f);
  const GridChoice choice{
      .scales = {1e-30f, 2e-30f}, .zeros = {8, 8}, .norm = 8};
  EXPECT_EQ(LeastErrorGrid(large.data(), 8, choice), 0);
}

}  // namespace
}  // namespace quantd::kernels
