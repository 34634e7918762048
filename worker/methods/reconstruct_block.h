// SPDX-License-Identifier: Apache-2.0
// Rounding all linears of a block so that its output on the calibration
// sequences stays close to the float block's. Gradients come from autograd.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/base/cancel.h"
#include "worker/methods/block_method.h"
#include "worker/methods/rounding_variables.h"

namespace quantd::methods {

struct BlockSchedule {
  int64_t iterations = 0;
  // Sequences per iteration; cut to those there are.
  int64_t batch = 1;
  // Of the order in which sequences are taken.
  uint64_t seed = 0;
  // Whether problems are to have output weights.
  bool weighted = false;
};

// The loss is the sum of squared output errors, each times its output weight
// where the problem has those. The loss of a batch is taken relative to plain
// rounding's on the same batch, so that those of different batches compare.
// Where plain rounding is better on all sequences together it stays. Plain
// rounding with the verdict RTN_FALLBACK where the block's output is not
// finite.
absl::StatusOr<std::vector<LinearSolution>> ReconstructBlock(
    const BlockProblem& problem, const BlockSchedule& schedule,
    const MakeVariables& make, const base::CancelToken& cancel);

}  // namespace quantd::methods
