// SPDX-License-Identifier: Apache-2.0
// The rows of the registry, each made in the file of its container.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "worker/checkpoints/reader.h"

namespace quantd::checkpoints {

CheckpointEntry GgufContainer();
CheckpointEntry SafetensorsContainer();

// NOT_FOUND, TENSOR_MISSING.
absl::Status TensorMissing(const std::string& name);

}  // namespace quantd::checkpoints
