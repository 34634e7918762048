// SPDX-License-Identifier: Apache-2.0
// Second-moment statistics of a linear layer's input.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/base/cancel.h"

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
  // float32 [in, in]: sum over tokens of (x~ - x) x^T, where x~ is what the
  // float model gives the layer for the same token. Undefined where the method
  // did not ask for it, or the layer's tokens are others in the float model.
  at::Tensor drift = {};
  // float32 [in]: sum over tokens of x^2 by feature, for methods that ask for
  // no more. Undefined where there is a Gram matrix, whose diagonal it is.
  at::Tensor squares = {};
};

// The sums of squares, from whichever of the two is there; else undefined.
at::Tensor SquaresOf(const Statistics& statistics);

// Sums x x^T over tokens in float32: raw sums, scaled by nobody, in one fixed
// order, so that the same tokens give the same bits.
class GramAccumulator {
 public:
  GramAccumulator(int64_t in_features, at::Device device);
  // `input` float32 [tokens, in]. Polls `cancel` every half second of a core's
  // work; CANCELLED leaves sums of no use.
  absl::Status Add(const at::Tensor& input, const base::CancelToken& cancel);
  // The drift of tokens that were added: `reference`, of the same shape, is
  // what the float model has for them. Takes memory from the first call on.
  absl::Status AddDrift(const at::Tensor& input, const at::Tensor& reference,
                        const base::CancelToken& cancel);
  // There are tokens whose drift is not known; there is none to be had then.
  void GiveUpDrift();
  // Mirrors the triangle and hands the statistics over. INVALID_ARGUMENT,
  // NON_FINITE_ACTIVATION, where a sum is not finite.
  absl::Status Finish(Statistics* statistics);

 private:
  at::Tensor gram_;
  at::Tensor drift_;
  bool drift_known_ = true;
  int64_t tokens_ = 0;
};

// tr(A G A^T) for rows A, float32 [out, in], and a Gram matrix G: products in
// float32, their sum in float64. Polls `cancel` every half second of a core's
// work.
absl::StatusOr<double> Energy(const at::Tensor& rows, const at::Tensor& gram,
                              const base::CancelToken& cancel);

// Sums x^2 over tokens, by feature.
class SquareAccumulator {
 public:
  SquareAccumulator(int64_t in_features, at::Device device);
  // `input` float32 [tokens, in].
  void Add(const at::Tensor& input);
  // As of GramAccumulator.
  absl::Status Finish(Statistics* statistics);

 private:
  // float64: the squares of many tokens are summed one by one.
  at::Tensor squares_;
  int64_t tokens_ = 0;
};

}  // namespace quantd::calibration
