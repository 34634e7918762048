// SPDX-License-Identifier: Apache-2.0
// One tensor scale for several weights. Serving engines join projections that
// read the same rows, queries with keys and values or gate with up, into one
// matrix, for which their kernels have one such scale.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "worker/formats/format.h"

namespace quantd::formats {

// Whether spec.format has one.
bool HasTensorScale(const WeightSpec& spec);

// One of the weights that are joined.
struct JoinedWeight {
  // float32, on any device: anything that has the weight's magnitudes.
  at::Tensor weight;
  // Not null; outlives the call.
  WeightSpec* spec = nullptr;
};

// Sets the shared_range of every spec whose format has a tensor scale: the
// largest magnitude over those of `joined` in the same format. Infinities and
// NaN are left out; who rounds that weight finds them. The order does not
// matter.
void ShareTensorScales(const std::vector<JoinedWeight>& joined);

}  // namespace quantd::formats
