// SPDX-License-Identifier: Apache-2.0
// The GPTQ column loop of one block of columns: one warp owns one row, its
// lanes hold the columns. Free of ATen, and free of anything a fiber shim
// cannot run (docs/decisions/0005-kernels-twice.md).
//
// Same arithmetic as columns_cpu.cc, in the same order for every weight: each
// later column gets fma(miss, factor, v) for ascending columns. So the codes,
// grids and errors of a block equal the CPU's bits where the CPU has an FMA.
#pragma once

#include <cstdint>

#include "worker/kernels/cuda/arguments.h"
#include "worker/kernels/integer_grid.h"

#if defined(__CUDACC__)
#define QUANTD_UNROLL _Pragma("unroll")
#else
#define QUANTD_UNROLL
#endif

namespace quantd::kernels {

__device__ inline float WarpMin(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, value, step);
    value = other < value ? other : value;
  }
  return value;
}

__device__ inline float WarpMax(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, value, step);
    value = other > value ? other : value;
  }
  return value;
}

// The grid of the group that starts at `column`, from the newest weights: those
// in `v` where the group ends in this block, those in memory where it is longer
// (it then starts with the block, and memory is as fresh).
__device__ inline IntegerGrid StartGroup(const ColumnsArguments& a, int64_t row,
                                         int64_t column, const float* v) {
  const int lane = threadIdx.x % kWarp;
  const int64_t group_end = column + a.group_size < a.in_features
                                ? column + a.group_size
                                : a.in_features;
  const float* stored = a.corrected + row * a.in_features;
  float low = 0;
  float high = 0;
  if (group_end <= a.end) {
    QUANTD_UNROLL
    for (int k = 0; k < kLaneColumns; ++k) {
      const int64_t j = a.begin + k * kWarp + lane;
      if (j < column || j >= group_end) continue;
      low = v[k] < low ? v[k] : low;
      high = v[k] > high ? v[k] : high;
    }
  } else {
    for (int64_t j = column + lane; j < group_end; j += kWarp) {
      low = stored[j] < low ? stored[j] : low;
      high = stored[j] > high ? stored[j] : high;
    }
  }
  return ChooseIntegerGrid(WarpMin(low), WarpMax(high), a.rule);
}

// The grid that column j is rounded with; stores it where it is new.
__device__ inline IntegerGrid GridOf(const ColumnsArguments& a, int64_t row,
                                     int64_t j, const float* v,
                                     IntegerGrid grid) {
  float* scales = a.scales + row * a.groups;
  uint8_t* zeros = a.zeros + row * a.groups;
  if (a.column_group != nullptr) {
    const int64_t group = a.column_group[j];
    grid.scale = scales[group];
    grid.zero = static_cast<float>(zeros[group]);
    return grid;
  }
  const int64_t group = j / a.group_size;
  if (j % a.group_size == 0) {
    grid = StartGroup(a, row, j, v);
    if (threadIdx.x % kWarp == 0) {
      scales[group] = grid.scale;
      zeros[group] = static_cast<uint8_t>(grid.zero);
    }
  } else if (j == a.begin) {
    grid.scale = scales[group];
    grid.zero = static_cast<float>(zeros[group]);
  }
  return grid;
}

// Grid: ceil(rows / (kColumnsThreads / kWarp)) blocks of kColumnsThreads.
__global__ void GptqColumnsKernel(ColumnsArguments a) {
  const int lane = threadIdx.x % kWarp;
  const int64_t row =
      int64_t{blockIdx.x} * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  if (row >= a.rows) return;
  const int64_t width = a.end - a.begin;
  const float* corrected = a.corrected + row * a.in_features + a.begin;
  uint8_t* codes = a.codes + row * a.in_features + a.begin;
  float* error_row = a.error + row * width;
  float v[kLaneColumns];
  QUANTD_UNROLL
  for (int k = 0; k < kLaneColumns; ++k) {
    const int64_t c = k * kWarp + lane;
    v[k] = c < width ? corrected[c] : 0.0f;
  }
  IntegerGrid grid;
  float loss = 0;
  // The register index is a constant in each unrolled turn.
  QUANTD_UNROLL
  for (int k = 0; k < kLaneColumns; ++k) {
    for (int owner = 0; owner < kWarp; ++owner) {
      const int64_t c = k * kWarp + owner;
      if (c >= width) break;
      const int64_t j = a.begin + c;
      grid = GridOf(a, row, j, v, grid);
      const float value = __shfl_sync(0xffffffffu, v[k], owner);
      const float code = NearestCode(value, grid, a.rule.max_code);
      const float rounded = __fmul_rn(grid.scale, __fsub_rn(code, grid.zero));
      const float miss = __fsub_rn(value, rounded);
      const float half_pivot = __fmul_rn(0.5f, a.pivots[j]);
      loss = __fmaf_rn(__fmul_rn(half_pivot, miss), miss, loss);
      if (lane == owner) {
        codes[c] = static_cast<uint8_t>(code);
        error_row[c] = miss;
      }
      const float* factors = a.feedback + j * a.in_features + a.begin;
      QUANTD_UNROLL
      for (int later = k; later < kLaneColumns; ++later) {
        const int64_t to = later * kWarp + lane;
        if (to > c && to < width) {
          v[later] = __fmaf_rn(miss, factors[to], v[later]);
        }
      }
    }
  }
  if (lane == 0) a.loss[row] = __fadd_rn(a.loss[row], loss);
}

}  // namespace quantd::kernels
