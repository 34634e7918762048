// SPDX-License-Identifier: Apache-2.0
// Mixture-of-experts weights as transformers 5 stores them on request: one
// tensor per layer for all experts, the gate's rows before the up projection's.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "worker/checkpoints/reader.h"

namespace quantd::checkpoints {

// A reader that has each expert's tensors under the names and shapes that the
// family's checkpoints have without fusion; the reader itself where nothing is
// fused, or where the model_type is none that is stored so. INVALID_ARGUMENT,
// EXPERTS_LAYOUT, where the fused shapes do not fit together.
absl::StatusOr<std::unique_ptr<CheckpointReader>> SplitFusedExperts(
    std::unique_ptr<CheckpointReader> reader);

}  // namespace quantd::checkpoints
