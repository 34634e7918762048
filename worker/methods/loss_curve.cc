// SPDX-License-Identifier: Apache-2.0
#include "worker/methods/loss_curve.h"

#include <ATen/ops/empty.h>

#include <algorithm>

namespace quantd::methods {

LossCurve::LossCurve(int64_t steps) {
  const int64_t gaps = std::min(steps, kPoints - 1);
  points_.push_back({});
  for (int64_t i = 1; i <= gaps; ++i) points_.push_back({i * steps / gaps, 0});
}

void LossCurve::Add(int64_t step, double loss) {
  const auto point = std::lower_bound(
      points_.begin(), points_.end(), step,
      [](const LossPoint& a, int64_t wanted) { return a.step < wanted; });
  if (point != points_.end() && point->step == step) point->loss += loss;
}

std::vector<LossPoint> LossCurve::Points(double parts) const {
  std::vector<LossPoint> points = points_;
  for (LossPoint& point : points) point.loss /= parts;
  return points;
}

at::Tensor LossCurve::State() const {
  at::Tensor state =
      at::empty({static_cast<int64_t>(points_.size())}, at::kDouble);
  std::transform(points_.begin(), points_.end(),
                 state.mutable_data_ptr<double>(),
                 [](const LossPoint& point) { return point.loss; });
  return state;
}

void LossCurve::Restore(const at::Tensor& state) {
  const at::Tensor losses = state.contiguous();
  for (size_t i = 0; i < points_.size(); ++i) {
    points_[i].loss = losses.const_data_ptr<double>()[i];
  }
}

}  // namespace quantd::methods
