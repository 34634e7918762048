// SPDX-License-Identifier: Apache-2.0
#include "worker/numerics/largest_prox.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

namespace quantd::numerics {
namespace {

// The level c with sum max(|v| - c, 0) = t. The sum is convex and falls with c,
// and c = max - t lies at or below the level, so that Newton's steps rise to it
// and end after finitely many: each one leaves another entry out.
double CutLevel(const float* values, int64_t count, double t) {
  double largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    largest = std::max(largest, static_cast<double>(std::abs(values[i])));
  }
  double level = largest - t;
  for (int64_t above = count + 1;;) {
    double sum = 0;
    int64_t now = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double magnitude = std::abs(values[i]);
      const bool counts = magnitude > level;
      sum += counts ? magnitude : 0;
      now += counts ? 1 : 0;
    }
    if (now == 0 || now == above) return std::max(level, 0.0);
    level = (sum - t) / static_cast<double>(now);
    above = now;
  }
}

void CutGroup(double t, int64_t count, float* values) {
  const float level = static_cast<float>(CutLevel(values, count, t));
  for (int64_t i = 0; i < count; ++i) {
    values[i] = std::clamp(values[i], -level, level);
  }
}

}  // namespace

void CutLargest(double t, int64_t group_size, const at::Tensor& rows) {
  if (t == 0) return;
  const int64_t columns = rows.size(1);
  float* values = rows.mutable_data_ptr<float>();
  at::parallel_for(0, rows.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t first = 0; first < columns; first += group_size) {
        CutGroup(t, std::min(group_size, columns - first),
                 values + row * columns + first);
      }
    }
  });
}

}  // namespace quantd::numerics
