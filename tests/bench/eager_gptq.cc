// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/eager_gptq.h"

#include <ATen/ops/cholesky_inverse.h>
#include <ATen/ops/linalg_cholesky.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

namespace quantd::bench {

void EagerGram(const at::Tensor& gram, const at::Tensor& input) {
  gram.add_(at::matmul(input.t(), input).mul_(2));
}

at::Tensor EagerFactor(const at::Tensor& hessian) {
  const at::Tensor inverse = at::cholesky_inverse(at::linalg_cholesky(hessian));
  return at::linalg_cholesky(inverse, /*upper=*/true);
}

at::Tensor EagerColumns(const at::Tensor& weight, const at::Tensor& factor,
                        int64_t group_size, double max_code) {
  constexpr int64_t kBlock = 128;
  const double middle = (max_code + 1) / 2;
  const int64_t in = weight.size(1);
  at::Tensor work = weight.clone();
  at::Tensor result = at::zeros_like(weight);
  at::Tensor scale;
  for (int64_t begin = 0; begin < in; begin += kBlock) {
    const int64_t count = std::min(kBlock, in - begin);
    at::Tensor block = work.narrow(1, begin, count).clone();
    at::Tensor values = at::zeros_like(block);
    at::Tensor errors = at::zeros_like(block);
    const at::Tensor local =
        factor.narrow(0, begin, count).narrow(1, begin, count);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t column = begin + i;
      if (column % group_size == 0) {
        const int64_t n = std::min(group_size, in - column);
        scale = work.narrow(1, column, n).abs().amax(1).mul_(2 / max_code);
      }
      const at::Tensor w = block.select(1, i);
      const at::Tensor q = w.div(scale)
                               .round_()
                               .add_(middle)
                               .clamp_(0, max_code)
                               .sub_(middle)
                               .mul_(scale);
      values.select(1, i).copy_(q);
      const at::Tensor error = w.sub(q).div_(local[i][i]);
      block.narrow(1, i, count - i)
          .sub_(at::matmul(error.unsqueeze(1),
                           local[i].narrow(0, i, count - i).unsqueeze(0)));
      errors.select(1, i).copy_(error);
    }
    result.narrow(1, begin, count).copy_(values);
    const int64_t rest = in - begin - count;
    if (rest == 0) break;
    work.narrow(1, begin + count, rest)
        .sub_(at::matmul(
            errors,
            factor.narrow(0, begin, count).narrow(1, begin + count, rest)));
  }
  return result;
}

}  // namespace quantd::bench
