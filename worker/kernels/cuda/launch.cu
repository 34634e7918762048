// SPDX-License-Identifier: Apache-2.0
#include "worker/kernels/cuda/columns.cuh"
#include "worker/kernels/cuda/gram.cuh"
#include "worker/kernels/cuda/launch.h"
#include "worker/kernels/cuda/rounding.cuh"

namespace quantd::kernels {
namespace {

std::string LastError() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

unsigned RowBlocks(int64_t rows) {
  constexpr int64_t kRows = kColumnsThreads / kWarp;
  return static_cast<unsigned>((rows + kRows - 1) / kRows);
}

}  // namespace

std::string LaunchColumns(const ColumnsArguments& arguments, void* stream) {
  GptqColumnsKernel<<<RowBlocks(arguments.rows), kColumnsThreads, 0,
                      static_cast<cudaStream_t>(stream)>>>(arguments);
  return LastError();
}

std::string LaunchRounding(const RoundingArguments& arguments, void* stream) {
  const dim3 grid(static_cast<unsigned>(arguments.groups),
                  RowBlocks(arguments.rows));
  RoundToNearestKernel<<<grid, kColumnsThreads, 0,
                         static_cast<cudaStream_t>(stream)>>>(arguments);
  return LastError();
}

std::string LaunchGram(const GramArguments& arguments, void* stream) {
  const unsigned tiles = static_cast<unsigned>(
      (arguments.in_features + kGramTile - 1) / kGramTile);
  GramKernel<<<dim3(tiles, tiles), kGramThreads, 0,
               static_cast<cudaStream_t>(stream)>>>(arguments);
  return LastError();
}

}  // namespace quantd::kernels
