// SPDX-License-Identifier: Apache-2.0
// Half-quadratic steps of the zero points of groups over plain pointers: all
// steps of a group while it is in registers and first-level cache. In words
// docs/methods/hqq.md. No LibTorch here: threads are the caller's.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/kernels/integer_grid.h"

namespace quantd::kernels {

// What all groups have in common; immutable.
struct ZeroPointRule {
  float max_code = 15;
  ScaleType scale_type = ScaleType::kFloat16;
  bool round_first = false;  // The first zero points are integers.
  float exponent = 0.7f;     // p of |w - w^|^p.
  bool steady = true;        // All steps have the same weight.
  // The steps' weights beta, and the |w - w^| up to which the shrinkage of a
  // step is surely 0.
  std::vector<float> betas = {};
  std::vector<float> untouched = {};
};

// `steps` steps whose weight begins with `beta` and is multiplied with `kappa`.
void SetSteps(int64_t steps, double beta, double kappa, ZeroPointRule* rule);

// Groups of `size` weights one after the other.
struct ZeroPointGroups {
  int64_t groups = 0;
  int64_t size = 0;
  const float* weight = nullptr;  // [groups, size]
  // [groups], written: the scale, as it is stored, what weights are multiplied
  // with to be in units of it, and the zero point, not rounded.
  float* scales = nullptr;
  float* inverses = nullptr;
  float* zeros = nullptr;
};

// The scale of the min-max grid and the zero point with the least sum of
// |w - w^| among the first and those that the steps find. The same bits from
// all vectors of 8 lanes. Thread-safe for disjoint groups.
void SolveZeroPoints(const ZeroPointGroups& all, const ZeroPointRule& rule);

// codes[i] = w[i] inverse + zero, rounded and cut to the grid.
void RoundToZeroPoints(const ZeroPointGroups& all, float max_code,
                       uint8_t* codes);

}  // namespace quantd::kernels
