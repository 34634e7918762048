// SPDX-License-Identifier: Apache-2.0
// gram += X^T X on tensor cores, upper block triangle only.
//
// Each float32 x is split into two bfloat16, x = high + low + O(2^-16 x), and
// three products high high, high low, low high are summed in float32: exact for
// bfloat16 inputs, relative error of a product about 2^-16 otherwise. The
// damping that the factor adds is 1e-2 of the mean diagonal.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "worker/kernels/cuda/arguments.h"
#if defined(__CUDACC__)
#include <mma.h>
#endif

namespace quantd::kernels {

inline constexpr int kGramTile = 64;    // Columns of X on either side.
inline constexpr int kGramTokens = 32;  // Tokens in shared memory at a time.
inline constexpr int kGramStride = 72;  // Padded: spreads shared memory banks.
inline constexpr int kGramThreads = 128;  // Four warps, a quadrant each.
inline constexpr int kQuadrant = 32;

// Tokens of X, columns of one side, split into two halves.
struct SplitTile {
  __nv_bfloat16 high[kGramTokens * kGramStride];
  __nv_bfloat16 low[kGramTokens * kGramStride];
};

struct GramShared {
  SplitTile left;
  SplitTile right;
  float out[kGramTile * kGramStride];
};

__device__ inline void LoadSplit(const GramArguments& a, int64_t token,
                                 int64_t column, SplitTile* tile) {
  for (int i = threadIdx.x; i < kGramTokens * kGramTile; i += blockDim.x) {
    const int t = i / kGramTile;
    const int c = i % kGramTile;
    const bool inside = token + t < a.tokens && column + c < a.in_features;
    const float x =
        inside ? a.input[(token + t) * a.in_features + column + c] : 0.0f;
    const __nv_bfloat16 high = __float2bfloat16_rn(x);
    tile->high[t * kGramStride + c] = high;
    tile->low[t * kGramStride + c] =
        __float2bfloat16_rn(x - __bfloat162float(high));
  }
}

#if defined(__CUDACC__)

// The 32 x 32 quadrant of a warp, in tensor-core fragments.
class QuadrantSum {
 public:
  __device__ QuadrantSum() {
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 2; ++j) nvcuda::wmma::fill_fragment(sum_[i][j], 0.0f);
    }
  }

  // += left^T right over the tokens in shared memory, from the columns given.
  __device__ void Add(const __nv_bfloat16* left, const __nv_bfloat16* right) {
    using nvcuda::wmma::col_major;
    using nvcuda::wmma::fragment;
    using nvcuda::wmma::row_major;
    for (int t = 0; t < kGramTokens; t += 16) {
      fragment<nvcuda::wmma::matrix_a, 16, 16, 16, __nv_bfloat16, col_major>
          a[2];
      fragment<nvcuda::wmma::matrix_b, 16, 16, 16, __nv_bfloat16, row_major>
          b[2];
      for (int i = 0; i < 2; ++i) {
        nvcuda::wmma::load_matrix_sync(a[i], left + t * kGramStride + 16 * i,
                                       kGramStride);
        nvcuda::wmma::load_matrix_sync(b[i], right + t * kGramStride + 16 * i,
                                       kGramStride);
      }
      for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 2; ++j) {
          nvcuda::wmma::mma_sync(sum_[i][j], a[i], b[j], sum_[i][j]);
        }
      }
    }
  }

  __device__ void Store(float* out) const {
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 2; ++j) {
        nvcuda::wmma::store_matrix_sync(out + 16 * i * kGramStride + 16 * j,
                                        sum_[i][j], kGramStride,
                                        nvcuda::wmma::mem_row_major);
      }
    }
  }

 private:
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> sum_[2]
                                                                           [2];
};

#else

// The host twin: each lane sums one row of the quadrant.
class QuadrantSum {
 public:
  void Add(const __nv_bfloat16* left, const __nv_bfloat16* right) {
    const int row = threadIdx.x % 32;
    for (int t = 0; t < kGramTokens; ++t) {
      for (int c = 0; c < kQuadrant; ++c) {
        sum_[c] += __bfloat162float(left[t * kGramStride + row]) *
                   __bfloat162float(right[t * kGramStride + c]);
      }
    }
  }

  void Store(float* out) const {
    const int row = threadIdx.x % 32;
    for (int c = 0; c < kQuadrant; ++c) out[row * kGramStride + c] = sum_[c];
  }

 private:
  float sum_[kQuadrant] = {};
};

#endif

// Grid: (tiles, tiles), tiles = ceil(in / kGramTile); kGramThreads threads.
// Blocks below the diagonal leave at once.
__global__ void GramKernel(GramArguments a) {
  if (blockIdx.y > blockIdx.x) return;
  __shared__ GramShared shared;
  const int64_t row = int64_t{blockIdx.y} * kGramTile;
  const int64_t column = int64_t{blockIdx.x} * kGramTile;
  const int warp = threadIdx.x / 32;
  const int quadrant_row = warp / 2 * kQuadrant;
  const int quadrant_column = warp % 2 * kQuadrant;
  QuadrantSum sum;
  for (int64_t token = 0; token < a.tokens; token += kGramTokens) {
    LoadSplit(a, token, row, &shared.left);
    LoadSplit(a, token, column, &shared.right);
    __syncthreads();
    const __nv_bfloat16* left = shared.left.high + quadrant_row;
    const __nv_bfloat16* right = shared.right.high + quadrant_column;
    sum.Add(left, right);
    sum.Add(left, shared.right.low + quadrant_column);
    sum.Add(shared.left.low + quadrant_row, right);
    __syncthreads();
  }
  sum.Store(shared.out + quadrant_row * kGramStride + quadrant_column);
  __syncthreads();
  for (int i = threadIdx.x; i < kGramTile * kGramTile; i += blockDim.x) {
    const int64_t r = row + i / kGramTile;
    const int64_t c = column + i % kGramTile;
    if (r < a.in_features && c < a.in_features) {
      a.gram[r * a.in_features + c] +=
          shared.out[i / kGramTile * kGramStride + i % kGramTile];
    }
  }
}

}  // namespace quantd::kernels
