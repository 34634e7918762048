// SPDX-License-Identifier: Apache-2.0
// The published GPTQ, operator for operator in ATen: what a program that calls
// LibTorch column by column costs. After the authors' gptq.py and quant.py
// (github.com/IST-DASLab/gptq), with the operators that their Python calls, in
// their order and out of place where theirs are.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace quantd::bench {

// The running mean of 2 x x^T over `seen` batches and this one, float32
// [in, in], by a full product.
void EagerGram(const at::Tensor& gram, const at::Tensor& input, int64_t seen);

// Cholesky, inverse, upper Cholesky of the inverse: U with H^-1 = U^T U.
at::Tensor EagerFactor(const at::Tensor& hessian);

// Symmetric `max_code` codes with groups of `group_size`; returns the
// dequantized weight, float32 [out, in].
at::Tensor EagerColumns(const at::Tensor& weight, const at::Tensor& factor,
                        int64_t group_size, double max_code);

}  // namespace quantd::bench
