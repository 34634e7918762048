// SPDX-License-Identifier: Apache-2.0
// Second-moment statistics of a linear layer's input.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "absl/status/status.h"

namespace quantd::calibration {

// What a method may ask for about the tokens a layer sees. All fields are on
// the CPU or on the device of the weights.
struct Statistics {
  // float32 [in, in], symmetric, both triangles: sum over tokens of x x^T.
  // Undefined where the method did not ask for it.
  at::Tensor gram;
  // Tokens that reached the layer: an expert sees those routed to it.
  int64_t tokens = 0;
  // Tokens of the whole calibration; 0 where nobody counted them.
  int64_t sampled_tokens = 0;
};

// Sums x x^T over tokens in float32: raw sums, scaled by nobody, in one fixed
// order, so that the same tokens give the same bits.
class GramAccumulator {
 public:
  GramAccumulator(int64_t in_features, at::Device device);
  // `input` float32 [tokens, in].
  void Add(const at::Tensor& input);
  // Mirrors the triangle and hands the statistics over. INVALID_ARGUMENT,
  // NON_FINITE_ACTIVATION, where a sum is not finite.
  absl::Status Finish(Statistics* statistics);

 private:
  at::Tensor gram_;
  int64_t tokens_ = 0;
};

}  // namespace quantd::calibration
