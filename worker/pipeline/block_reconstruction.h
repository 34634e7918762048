// SPDX-License-Identifier: Apache-2.0
// Lets a method round all linears of a decoder block together: gives it the
// block as a function of its weights, the sequences as the quantized blocks
// before it left them, and what the float block makes of those.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "proto/base/cancel.h"
#include "worker/methods/block_method.h"
#include "worker/methods/method.h"
#include "worker/models/model.h"
#include "worker/pipeline/activation_cache.h"
#include "worker/pipeline/module_plan.h"
#include "worker/pipeline/progress.h"

namespace quantd::pipeline {

// Module names to what they became.
using BlockSolutions = std::map<std::string, methods::LinearSolution>;

// True where the method of `plan` rounds the linears of a block together.
absl::StatusOr<bool> RoundsTogether(const ModulePlan& plan);

// How much errors of a block's output count, on all calibration sequences.
struct OutputWeights {
  // bfloat16 [sequences * tokens, hidden], 1 at least; undefined: all alike.
  at::Tensor values = {};
  // Why there are none although the method asked; else empty.
  std::string unusable = {};
};

// The tokens before a block, what the float block makes of them, and how much
// errors of that count.
struct BlockTokens {
  const ActivationCache& inputs;
  const ActivationCache& targets;
  const OutputWeights& weights;
};

// The quantized linears of `plans`, which are those of `block`; none where
// their method rounds layer by layer. The block's linears are replaced by
// others with the same float weights. Verdicts that would be OK are UNWEIGHTED
// where there should be weights and are none. `store`, which may be null, keeps
// the state on the way. INVALID_ARGUMENT, METHOD_PARAMETERS_DIFFER, where
// modules of the block are to have different parameters of the method.
absl::StatusOr<BlockSolutions> ReconstructBlock(
    models::Block& block, const std::map<std::string, ModulePlan>& plans,
    const BlockTokens& tokens, methods::LoopStore* store,
    const base::CancelToken& cancel, ProgressReporter* progress);

}  // namespace quantd::pipeline
