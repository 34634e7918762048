// SPDX-License-Identifier: Apache-2.0
// How much an error of each element of a block's output counts for the loss of
// the whole model: the diagonal of the empirical Fisher information (Li et al.,
// BRECQ, arXiv:2102.05426, section 3.2), from the loss's gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"

namespace quantd::numerics {

// bfloat16 (|g| / r + 1)^2, r the root mean square of all g; all ones where
// that is 0. `gradient`: float32 [rows, hidden] on the CPU.
// FAILED_PRECONDITION, NON_FINITE_GRADIENT.
absl::StatusOr<at::Tensor> OutputWeights(const at::Tensor& gradient);

}  // namespace quantd::numerics
