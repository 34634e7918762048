// SPDX-License-Identifier: Apache-2.0
// Round to nearest on the GPU: one warp takes one group of one row.
#pragma once

#include <cstdint>

#include "worker/kernels/cuda/columns.cuh"

namespace quantd::kernels {

// Grid: (groups, ceil(rows / (blockDim / kWarp))), kColumnsThreads threads.
__global__ void RoundToNearestKernel(RoundingArguments a) {
  const int lane = threadIdx.x % kWarp;
  const int64_t row =
      int64_t{blockIdx.y} * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  if (row >= a.rows) return;
  const int64_t begin = int64_t{blockIdx.x} * a.group_size;
  const int64_t end = begin + a.group_size < a.in_features
                          ? begin + a.group_size
                          : a.in_features;
  const float* weight = a.weight + row * a.in_features;
  float low = 0;
  float high = 0;
  for (int64_t j = begin + lane; j < end; j += kWarp) {
    low = weight[j] < low ? weight[j] : low;
    high = weight[j] > high ? weight[j] : high;
  }
  const IntegerGrid grid =
      ChooseIntegerGrid(WarpMin(low), WarpMax(high), a.rule);
  for (int64_t j = begin + lane; j < end; j += kWarp) {
    a.codes[row * a.in_features + j] =
        static_cast<uint8_t>(NearestCode(weight[j], grid, a.rule.max_code));
  }
  if (lane == 0) {
    a.scales[row * a.groups + blockIdx.x] = grid.scale;
    a.zeros[row * a.groups + blockIdx.x] = static_cast<uint8_t>(grid.zero);
  }
}

}  // namespace quantd::kernels
