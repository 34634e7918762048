// SPDX-License-Identifier: Apache-2.0
// What the learned roundings do to every weight in each of their iterations, in
// one pass over plain pointers: SignRound's variables
// (worker/methods/signed_rounding.h) and AdaRound's
// (worker/methods/soft_rounding.h). No LibTorch here: threads are the caller's.
// Thread-safe for disjoint rows.
#pragma once

#include <cstdint>

namespace quantd::kernels {

// Rows one after the other, each cut into groups of `group_size` columns, the
// last of which may be short; every group has a grid.
struct GroupedRows {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t group_size = 0;
  const float* scales = nullptr;  // [rows, groups]
  const float* zeros = nullptr;
  float max_code = 15;

  int64_t groups() const { return (columns + group_size - 1) / group_size; }
  GroupedRows Slice(int64_t first, int64_t last) const {
    GroupedRows some = *this;
    some.rows = last - first;
    some.scales += first * groups();
    some.zeros += first * groups();
    return some;
  }
};

// Pointers to [rows, columns].
struct SignedState {
  const float* weight = nullptr;
  const float* offset = nullptr;

  SignedState Skip(int64_t weights) const {
    return {weight + weights, offset + weights};
  }
};

// out = scale (clamp(round(weight / scale + offset) + zero) - zero).
void SignedWeights(const GroupedRows& grids, const SignedState& state,
                   float* out);

// With `gradient` the loss's by `out`.
struct SignedStep {
  const float* gradient = nullptr;  // [rows, columns]
  float size = 0;                   // What an offset moves by.
  // [rows, groups]: low / scale, what a weight that was cut goes along with;
  // null where the zero point does not move.
  const float* ends = nullptr;
  float* offset = nullptr;  // [rows, columns], written; may be state.offset.
  // [rows, groups], written: the gradient by the scale, and the sum of the
  // gradients of weights that were cut.
  float* by_scale = nullptr;
  float* cut = nullptr;

  SignedStep Skip(int64_t weights, int64_t groups) const {
    return {gradient + weights,
            size,
            ends == nullptr ? nullptr : ends + groups,
            offset + weights,
            by_scale + groups,
            cut + groups};
  }
};
void StepSigned(const GroupedRows& grids, const SignedState& state,
                const SignedStep& step);

// The rectified sigmoid h(v) = clamp(stretch sigmoid(v) - margin, 0, 1) and
// what changes with the step.
struct SoftStep {
  float stretch = 0;
  float margin = 0;
  float loss_factor = 0;     // What `gradient` is multiplied with.
  float penalty_power = 0;   // beta - 1
  float penalty_factor = 0;  // -2 beta lambda; 0: no penalty.
  // Adam's.
  float decay1 = 0;
  float decay2 = 0;
  float epsilon = 0;
  float unbias2 = 0;  // 1 - decay2^turn
  float size = 0;     // learning rate / (1 - decay1^turn)
};

// Pointers to [rows, columns].
struct SoftState {
  const float* below = nullptr;
  float* v = nullptr;
  float* mean = nullptr;
  float* square = nullptr;

  SoftState Skip(int64_t weights) const {
    return {below + weights, v + weights, mean + weights, square + weights};
  }
};

// out = scale (clamp(below + h(v)) - zero).
void SoftWeights(const GroupedRows& grids, const SoftState& state,
                 const SoftStep& step, float* out);

// Moves v, mean and square.
void StepSoft(const GroupedRows& grids, const SoftState& state,
              const SoftStep& step, const float* gradient);

}  // namespace quantd::kernels
