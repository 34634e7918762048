// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/eager_gptq.h"

#include <ATen/ops/cholesky_inverse.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/linalg_cholesky.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

namespace quantd::bench {
namespace {

struct Grid {
  at::Tensor scale;
  at::Tensor zero;
};

// The published min-max rule for rows of a group, symmetric.
Grid FindGrid(const at::Tensor& x, double max_code) {
  const at::Tensor zeros = at::zeros({x.size(0)});
  at::Tensor low = at::minimum(std::get<0>(x.min(1)), zeros);
  at::Tensor high = at::maximum(std::get<0>(x.max(1)), zeros);
  high = at::maximum(low.abs(), high);
  low = at::where(low.lt(0), high.neg(), low);
  const at::Tensor empty = low.eq(0).logical_and(high.eq(0));
  low = at::where(empty, at::full_like(low, -1), low);
  high = at::where(empty, at::full_like(high, 1), high);
  Grid grid;
  grid.scale = high.sub(low).div(max_code);
  grid.zero = at::full_like(grid.scale, (max_code + 1) / 2);
  return grid;
}

at::Tensor Round(const at::Tensor& x, const Grid& grid, double max_code) {
  const at::Tensor code =
      x.div(grid.scale).round().add(grid.zero).clamp(0, max_code);
  return grid.scale.mul(code.sub(grid.zero));
}

}  // namespace

void EagerGram(const at::Tensor& gram, const at::Tensor& input, int64_t seen) {
  const double samples = static_cast<double>(seen + 1);
  gram.mul_(static_cast<double>(seen) / samples);
  const at::Tensor scaled = input.mul(std::sqrt(2 / samples));
  gram.add_(at::matmul(scaled.t(), scaled));
}

at::Tensor EagerFactor(const at::Tensor& hessian) {
  const at::Tensor inverse = at::cholesky_inverse(at::linalg_cholesky(hessian));
  return at::linalg_cholesky(inverse, /*upper=*/true);
}

at::Tensor EagerColumns(const at::Tensor& weight, const at::Tensor& factor,
                        int64_t group_size, double max_code) {
  constexpr int64_t kBlock = 128;
  const int64_t in = weight.size(1);
  const at::Tensor work = weight.clone();
  const at::Tensor result = at::zeros_like(work);
  const at::Tensor all_losses = at::zeros_like(work);
  Grid grid;
  for (int64_t begin = 0; begin < in; begin += kBlock) {
    const int64_t count = std::min(kBlock, in - begin);
    const at::Tensor block = work.narrow(1, begin, count).clone();
    const at::Tensor values = at::zeros_like(block);
    const at::Tensor errors = at::zeros_like(block);
    const at::Tensor losses = at::zeros_like(block);
    const at::Tensor local =
        factor.narrow(0, begin, count).narrow(1, begin, count);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t column = begin + i;
      const at::Tensor w = block.select(1, i);
      const at::Tensor d = local.select(0, i).select(0, i);
      if (column % group_size == 0) {
        const int64_t n = std::min(group_size, in - column);
        grid = FindGrid(work.narrow(1, column, n), max_code);
      }
      const at::Tensor q = Round(w, grid, max_code);
      values.select(1, i).copy_(q);
      losses.select(1, i).copy_(w.sub(q).pow(2).div(d.pow(2)));
      const at::Tensor error = w.sub(q).div(d);
      block.narrow(1, i, count - i)
          .sub_(at::matmul(
              error.unsqueeze(1),
              local.select(0, i).narrow(0, i, count - i).unsqueeze(0)));
      errors.select(1, i).copy_(error);
    }
    result.narrow(1, begin, count).copy_(values);
    all_losses.narrow(1, begin, count).copy_(losses.div(2));
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
