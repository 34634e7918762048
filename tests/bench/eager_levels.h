// SPDX-License-Identifier: Apache-2.0
// Floating-point, codebook and Microscaling formats in ATen operators, as the
// usual Python does it: the largest magnitude of a group, its scale, the
// quotient, and a search among the middles between the levels. Types that ATen
// has, it converts to.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "worker/formats/format.h"

namespace quantd::bench {

// The codes of `weight`, float32 [out, in] with whole groups, uint8 [out, in],
// in the format of `spec` with the defaults of its parameters.
at::Tensor EagerLevels(const at::Tensor& weight,
                       const formats::WeightSpec& spec);

}  // namespace quantd::bench
