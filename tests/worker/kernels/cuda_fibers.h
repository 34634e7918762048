// SPDX-License-Identifier: Apache-2.0
// Runs CUDA kernel source on the CPU: include this before a .cuh file, then
// call RunKernel. One fiber per CUDA thread; the blocks of a grid run one after
// another. Barriers and warp shuffles suspend a fiber until its whole block or
// warp has come to them; where no fiber can go on, the barrier diverged and the
// process aborts. Not modelled: memory ordering, tensor cores, partial masks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <vector_types.h>

#include <cmath>
#include <cstdint>
#include <functional>

namespace quantd::kernels {

// Of the fiber that runs now.
struct FiberIndex {
  dim3 thread;
  dim3 block;
  dim3 block_size;
  dim3 grid_size;
};
const FiberIndex& CurrentFiber();

// Suspends until every live fiber of the block is here.
void BlockBarrier();
// Gives `value` to the warp and takes that of lane `from` (0 .. 31).
float WarpExchange(float value, int from);

// Runs `kernel` as blocks of `block` threads. Threads of a block start in an
// order that differs from block to block.
void RunKernel(dim3 grid, dim3 block, const std::function<void()>& kernel);

}  // namespace quantd::kernels

#undef __shared__
#define __shared__ static thread_local
#define threadIdx (quantd::kernels::CurrentFiber().thread)
#define blockIdx (quantd::kernels::CurrentFiber().block)
#define blockDim (quantd::kernels::CurrentFiber().block_size)
#define gridDim (quantd::kernels::CurrentFiber().grid_size)

inline void __syncthreads() { quantd::kernels::BlockBarrier(); }
inline float __shfl_sync(unsigned, float value, int lane) {
  return quantd::kernels::WarpExchange(value, lane);
}
inline float __shfl_xor_sync(unsigned, float value, int mask) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  return quantd::kernels::WarpExchange(value, lane ^ mask);
}
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
