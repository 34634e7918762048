// SPDX-License-Identifier: Apache-2.0
// Rounding one linear so that its output on the calibration tokens stays close:
// with D the error of the weights and G the Gram matrix of the input, the loss
// of a row is D G D^T and its gradient 2 D G, whatever the number of tokens.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "proto/base/cancel.h"
#include "worker/methods/method.h"
#include "worker/methods/rounding_variables.h"

namespace quantd::methods {

// Rows do not touch one another's loss: each is taken relative to plain
// rounding's, and each keeps plain rounding where that is better. Statistics
// that cannot be used end in the verdict RTN_FALLBACK.
absl::StatusOr<LinearSolution> ReconstructLinear(
    const LinearProblem& problem, int64_t iterations, const MakeVariables& make,
    const base::CancelToken& cancel);

}  // namespace quantd::methods
