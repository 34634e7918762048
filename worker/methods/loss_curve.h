// SPDX-License-Identifier: Apache-2.0
// The loss of an optimisation at a few of its steps.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace quantd::methods {

struct LossPoint {
  // Steps that were made before.
  int64_t step = 0;
  double loss = 0;

  bool operator==(const LossPoint&) const = default;
};

// At most kPoints points from step 0 to the last, both included, as evenly
// spaced as whole steps can be. Which ones they are follows from the number of
// steps alone, so that a curve that is continued is the undisturbed one.
class LossCurve {
 public:
  static constexpr int64_t kPoints = 32;

  explicit LossCurve(int64_t steps);

  // Adds to the loss of `step`, where that is one of the points: a loss may be
  // told in parts.
  void Add(int64_t step, double loss);
  // Every loss divided by `parts`.
  std::vector<LossPoint> Points(double parts = 1) const;

  // float64 [points]: the losses so far, and the same put back; a copy each.
  at::Tensor State() const;
  void Restore(const at::Tensor& state);

 private:
  std::vector<LossPoint> points_;
};

}  // namespace quantd::methods
