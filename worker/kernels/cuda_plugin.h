// SPDX-License-Identifier: Apache-2.0
// Brings the GPU in: LibTorch's CUDA half and our kernels, both opened at run
// time, so that one program serves machines with and without a GPU.
#pragma once

#include <c10/core/Device.h>

#include <string>

#include "absl/status/statusor.h"

namespace quantd::kernels {

// The device called "cpu" or "cuda:N". The first GPU asked for loads
// libtorch_cuda.so and libquantd_cuda.so (beside the program) and turns TF32
// off, whose 10-bit significand would spoil Gram matrices. FAILED_PRECONDITION,
// CUDA_UNAVAILABLE, in one plain sentence where that cannot be. Call it from
// one thread.
absl::StatusOr<c10::Device> OpenDevice(const std::string& name);

}  // namespace quantd::kernels
