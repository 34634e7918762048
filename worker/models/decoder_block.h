// SPDX-License-Identifier: Apache-2.0
// One decoder block in memory.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/models/model.h"
#include "worker/models/shape.h"

namespace quantd::models {

// A linear as the configuration describes it.
struct LinearPlan {
  std::string name;
  int64_t out_features = 0;
  int64_t in_features = 0;
  bool bias = false;
};

// The linears of block `index` by stage: q, k, v; o; gate, up; down.
std::vector<std::vector<LinearPlan>> PlanBlock(const Shape& shape,
                                               int64_t index);

// Tensors of block `index` that are no linears, with their shapes.
std::map<std::string, std::vector<int64_t>> PlanBlockNorms(const Shape& shape,
                                                           int64_t index);

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
