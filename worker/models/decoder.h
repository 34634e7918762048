// SPDX-License-Identifier: Apache-2.0
// The one decoder that every family runs: pre-norm blocks of grouped-query
// attention with rope and a gated feed-forward layer, as its Shape says.
#pragma once

#include <c10/core/Device.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/models/model.h"
#include "worker/models/shape.h"

namespace quantd::models {

// Checks the tensors that are no linears and what the head is.
absl::StatusOr<std::unique_ptr<Model>> MakeDecoder(
    const FamilyTraits& family, checkpoints::CheckpointReader& reader,
    LinearLoader& loader, at::Device device);

}  // namespace quantd::models
