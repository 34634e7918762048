// SPDX-License-Identifier: Apache-2.0
#include "worker/methods/loss_curve.h"

#include <gtest/gtest.h>

namespace quantd::methods {
namespace {

// Step s has the loss s + 1.
LossCurve Told(int64_t steps) {
  LossCurve curve(steps);
  for (int64_t step = 0; step <= steps; ++step) {
    curve.Add(step, static_cast<double>(step + 1));
  }
  return curve;
}

TEST(LossCurveTest, HasBothEndsAndAtMost32Points) {
  for (const int64_t steps : {1, 2, 30, 31, 32, 33, 100, 500, 99999}) {
    const std::vector<LossPoint> points = Told(steps).Points();
    EXPECT_EQ(points.size(), std::min<int64_t>(steps + 1, 32)) << steps;
    EXPECT_EQ(points.front(), (LossPoint{0, 1}));
    EXPECT_EQ(points.back(),
              (LossPoint{steps, static_cast<double>(steps + 1)}));
    for (size_t i = 1; i < points.size(); ++i) {
      EXPECT_GT(points[i].step, points[i - 1].step);
      EXPECT_EQ(points[i].loss, static_cast<double>(points[i].step + 1));
    }
  }
}

TEST(LossCurveTest, PointsAreAsFarApartAsTheyCanBe) {
  const std::vector<LossPoint> points = Told(500).Points();
  for (size_t i = 1; i < points.size(); ++i) {
    const int64_t gap = points[i].step - points[i - 1].step;
    EXPECT_TRUE(gap == 16 || gap == 17) << gap;
  }
}

TEST(LossCurveTest, PartsOfALossAreSummedUp) {
  LossCurve curve(2);
  for (const double part : {1.0, 3.0}) curve.Add(1, part);
  EXPECT_EQ(curve.Points(2)[1], (LossPoint{1, 2}));
}

TEST(LossCurveTest, GoesOnFromItsState) {
  LossCurve first(64);
  for (int64_t step = 0; step < 40; ++step) {
    first.Add(step, static_cast<double>(step + 1));
  }
  LossCurve second(64);
  second.Restore(first.State());
  for (int64_t step = 40; step <= 64; ++step) {
    second.Add(step, static_cast<double>(step + 1));
  }
  EXPECT_EQ(second.Points(), Told(64).Points());
}

}  // namespace
}  // namespace quantd::methods
