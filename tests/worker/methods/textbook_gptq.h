// SPDX-License-Identifier: Apache-2.0
// GPTQ in float64 as the paper has it: the inverse of the Hessian, its upper
// Cholesky factor, one column after another, every update at once. Slow, plain,
// and independent of the code under test.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace quantd::methods {

struct TextbookOptions {
  int max_code = 15;
  bool symmetric = true;
  int64_t group_size = 128;
  double percdamp = 0.01;
  bool act_order = false;
  bool static_groups = false;
  // Whether scales are rounded to float16; else they stay in float64.
  bool half_scales = false;
};

struct TextbookResult {
  at::Tensor codes;   // int64 [out, in], original column order.
  at::Tensor scales;  // float64 [out, groups]
  at::Tensor zeros;   // float64 [out, groups]
  // float64 [out, in], original order: how far the value that was rounded lay
  // from the nearest point where rounding turns over, in steps of the grid.
  at::Tensor margin;
  at::Tensor value;                  // float64 [out, in]: dequantized.
  std::vector<int64_t> group_index;  // [in], original order.
  double loss = 0;                   // sum (w-q)^2 / (2 d^2)
};

// `weight` and `gram` of any float type; `gram` is the sum of x x^T.
TextbookResult TextbookGptq(const at::Tensor& weight, const at::Tensor& gram,
                            int64_t tokens, const TextbookOptions& options);

// The damped Hessian in original order, float64 [in, in].
at::Tensor DampedHessian(const at::Tensor& gram, int64_t tokens,
                         double percdamp);

}  // namespace quantd::methods
