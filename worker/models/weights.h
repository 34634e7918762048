// SPDX-License-Identifier: Apache-2.0
// Tensors of a checkpoint by the names that the families use.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/checkpoints/reader.h"

namespace quantd::models {

// The name under which the checkpoint has the tensor: `name` itself, without
// "model." before it, or with it, since checkpoints of bare base models lack
// the prefix. Empty where there is none.
std::string StoredName(const checkpoints::CheckpointReader& reader,
                       const std::string& name);

// float32 on `device`. NOT_FOUND, TENSOR_MISSING; INVALID_ARGUMENT,
// TENSOR_SHAPE, where the shape is not `shape`, before anything is read.
absl::StatusOr<at::Tensor> ReadWeight(checkpoints::CheckpointReader& reader,
                                      const std::string& name,
                                      const std::vector<int64_t>& shape,
                                      at::Device device);

// The same check without reading.
absl::Status CheckWeightShape(const checkpoints::CheckpointReader& reader,
                              const std::string& name,
                              const std::vector<int64_t>& shape);

}  // namespace quantd::models
