// SPDX-License-Identifier: Apache-2.0
// One decoder block in memory.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "worker/models/model.h"
#include "worker/models/shape.h"

namespace quantd::models {

struct BlockSource {
  checkpoints::CheckpointReader& reader;
  LinearLoader& loader;
  at::Device device;
};

absl::StatusOr<std::unique_ptr<Block>> LoadDecoderBlock(
    const Shape& shape, int64_t index, int64_t sequence_length,
    const BlockSource& source);

// x / rms(x) * weight over the last dimension.
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace quantd::models
