// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "worker/kernels/zero_points_cpu.h"

namespace quantd::kernels {
namespace {

std::vector<float> HeavyTailed(int64_t count, float size, uint32_t seed) {
  std::mt19937 bits(seed);
  std::student_t_distribution<float> tailed(4);
  std::vector<float> values(count);
  for (float& value : values) value = size * tailed(bits);
  return values;
}

struct Solved {
  std::vector<float> scales;
  std::vector<float> inverses;
  std::vector<float> zeros;
};

ZeroPointGroups Groups(const std::vector<float>& weight, int64_t size,
                       Solved* solved) {
  const int64_t groups = static_cast<int64_t>(weight.size()) / size;
  solved->scales.resize(groups);
  solved->inverses.resize(groups);
  solved->zeros.resize(groups);
  return {.groups = groups,
          .size = size,
          .weight = weight.data(),
          .scales = solved->scales.data(),
          .inverses = solved->inverses.data(),
          .zeros = solved->zeros.data()};
}

double CodeOf(double w, double inverse, double zero, double max_code) {
  return std::clamp(std::nearbyint(w * inverse + zero), 0.0, max_code);
}

double Error(const float* w, int64_t size, double scale, double zero,
             double max_code) {
  double sum = 0;
  for (int64_t i = 0; i < size; ++i) {
    const double code = CodeOf(w[i], 1 / scale, zero, max_code);
    sum += std::abs(w[i] - (code - zero) * scale);
  }
  return sum;
}

// The least error that the published step finds in float64.
double LeastError(const float* w, int64_t size, double scale, double zero,
                  int steps, double beta, double kappa, double p,
                  double max_code) {
  double least = Error(w, size, scale, zero, max_code);
  for (int step = 0; step < steps; ++step) {
    double sum = 0;
    for (int64_t i = 0; i < size; ++i) {
      const double code = CodeOf(w[i], 1 / scale, zero, max_code);
      const double miss = w[i] - (code - zero) * scale;
      const double left =
          miss == 0 ? 0
                    : std::max(std::abs(miss) -
                                   std::pow(std::abs(miss), p - 1) / beta,
                               0.0);
      sum += code - (w[i] - std::copysign(left, miss)) / scale;
    }
    zero = sum / static_cast<double>(size);
    least = std::min(least, Error(w, size, scale, zero, max_code));
    beta *= kappa;
  }
  return least;
}

class ZeroPointsTest
    : public testing::TestWithParam<std::tuple<int64_t, float, double>> {};

TEST_P(ZeroPointsTest, FindsWhatThePublishedStepsFind) {
  const auto [size, magnitude, kappa] = GetParam();
  const std::vector<float> weight = HeavyTailed(200 * size, magnitude, 6);
  ZeroPointRule rule{.scale_type = ScaleType::kFloat32, .round_first = true};
  SetSteps(20, 10, kappa, &rule);
  Solved solved;
  const ZeroPointGroups groups = Groups(weight, size, &solved);
  SolveZeroPoints(groups, rule);
  double ours = 0;
  double published = 0;
  for (int64_t g = 0; g < groups.groups; ++g) {
    const float* w = weight.data() + g * size;
    const double first =
        std::nearbyint(-*std::min_element(w, w + size) * solved.inverses[g]);
    const double error = Error(w, size, solved.scales[g], solved.zeros[g], 15);
    EXPECT_LE(error,
              Error(w, size, solved.scales[g], first, 15) * (1 + 1e-5) + 1e-9);
    ours += error;
    published +=
        LeastError(w, size, solved.scales[g], first, 20, 10, kappa, 0.7, 15);
  }
  EXPECT_NEAR(ours / published, 1, 2e-3);
}

INSTANTIATE_TEST_SUITE_P(
    Groups, ZeroPointsTest,
    testing::Combine(testing::Values(8, 13, 64, 100),
                     // Small ones are never shrunk, large ones always.
                     testing::Values(0.02f, 3.0f), testing::Values(1.0, 1.3)));

TEST(ZeroPointsTest, WithoutStepsTheMinMaxGridStays) {
  const std::vector<float> weight = {-1, 0.5f, 2, 0.25f, 0, 0, 0, 0};
  ZeroPointRule rule{.max_code = 3, .scale_type = ScaleType::kFloat32};
  Solved solved;
  const ZeroPointGroups groups = Groups(weight, 4, &solved);
  SolveZeroPoints(groups, rule);
  EXPECT_FLOAT_EQ(solved.scales[0], 1);
  EXPECT_FLOAT_EQ(solved.zeros[0], 1);
  // A range of nothing has the scale 1.
  EXPECT_EQ(solved.scales[1], 1);
  std::vector<uint8_t> codes(8, 9);
  RoundToZeroPoints(groups, 3, codes.data());
  EXPECT_EQ(codes, (std::vector<uint8_t>{0, 2, 3, 1, 0, 0, 0, 0}));
}

TEST(ZeroPointsTest, AnyWeightOfTheStepsGivesFiniteZeroPoints) {
  const std::vector<float> weight = HeavyTailed(64, 1e20f, 8);
  for (const double kappa : {1.0, 2.0}) {
    ZeroPointRule rule{.exponent = 0.1f};
    SetSteps(1000, 1e-3, kappa, &rule);
    Solved solved;
    const ZeroPointGroups groups = Groups(weight, 16, &solved);
    SolveZeroPoints(groups, rule);
    for (const float zero : solved.zeros) EXPECT_TRUE(std::isfinite(zero));
  }
}

}  // namespace
}  // namespace quantd::kernels
