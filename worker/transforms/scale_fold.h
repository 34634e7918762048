// SPDX-License-Identifier: Apache-2.0
// What the transforms that move scales have in common.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/models/folds.h"
#include "worker/transforms/transform.h"

namespace quantd::transforms {

// A linear that is going to be quantized and reads a fold's channels.
struct Consumer {
  std::string name;
  // float32 [out, in].
  at::Tensor weight;
  const formats::WeightSpec* spec = nullptr;
  const calibration::InputStatistics* inputs = nullptr;
  // float32 [in]: the largest magnitude of each column over the consumers that
  // have the same tensor scale, this one among them; undefined without one.
  at::Tensor column_ranges = {};
  // tr(W G W^T): the squared length of its outputs over all tokens; 0 without a
  // Gram matrix.
  double output_energy = 0;
};

// Those that are going to be quantized and have statistics. CANCELLED.
absl::StatusOr<std::vector<Consumer>> QuantizedConsumers(
    const models::ScaleFold& fold, const BlockProblem& problem,
    const base::CancelToken& cancel);

// Over the inputs of all consumers, [in features]: the largest |x|, and the
// mean of |x| over the tokens of all. At least one consumer.
at::Tensor LargestInput(const std::vector<Consumer>& consumers);
at::Tensor MeanInput(const std::vector<Consumer>& consumers);

// sum over the consumers of tr(D G D^T) / tr(W G W^T), D = W - Q(W s) / s: what
// their outputs lose over all tokens once their columns are scaled by `spread`,
// float32 [in features], and rounded to nearest. Each counts relative to its
// own outputs: values are small beside queries and matter as much. Needs the
// Gram matrices.
absl::StatusOr<double> RoundingLoss(const std::vector<Consumer>& consumers,
                                    const at::Tensor& spread,
                                    const base::CancelToken& cancel);

// s / sqrt(max s * min s) over the channels that `live`, bool [channels], names
// and 1 for the others, as for anything that is not positive and finite: the
// largest and the smallest scale of live channels have product 1.
at::Tensor Centred(const at::Tensor& scale, const at::Tensor& live);

// Adds the edits that move `scale` through the fold. Where a norm's weight is
// stored in fewer bits, the scale becomes what its rounded weight implies, so
// that rounding it changes nothing.
absl::Status AddFold(const models::ScaleFold& fold, const at::Tensor& scale,
                     const BlockProblem& problem, BlockEdits* edits);

}  // namespace quantd::transforms
