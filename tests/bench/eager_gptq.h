// SPDX-License-Identifier: Apache-2.0
// The published GPTQ, step for step in ATen operators: what a program that
// calls LibTorch column by column costs.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace quantd::bench {

// H += 2 x x^T by a full product, float32 [in, in].
void EagerGram(const at::Tensor& gram, const at::Tensor& input);

// Cholesky, inverse, upper Cholesky of the inverse: U with H^-1 = U^T U.
at::Tensor EagerFactor(const at::Tensor& hessian);

// Symmetric `max_code` codes with groups of `group_size`; returns the
// dequantized weight, float32 [out, in].
at::Tensor EagerColumns(const at::Tensor& weight, const at::Tensor& factor,
                        int64_t group_size, double max_code);

}  // namespace quantd::bench
