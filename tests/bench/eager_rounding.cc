// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/eager_rounding.h"

#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/round.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <limits>

namespace quantd::bench {
namespace {

constexpr double kMaxCode = 15;

// Of each row, [rows, 1].
struct Grid {
  at::Tensor scale;
  at::Tensor zero;
};

struct Range {
  at::Tensor low;
  at::Tensor high;
};

Range FindRange(const at::Tensor& x, bool symmetric) {
  const at::Tensor zeros = at::zeros({x.size(0)});
  Range range;
  range.low = at::minimum(std::get<0>(x.min(1)), zeros);
  range.high = at::maximum(std::get<0>(x.max(1)), zeros);
  if (symmetric) {
    range.high = at::maximum(range.low.abs(), range.high);
    range.low = at::where(range.low.lt(0), range.high.neg(), range.low);
  }
  const at::Tensor empty = range.low.eq(0).logical_and(range.high.eq(0));
  range.low = at::where(empty, at::full_like(range.low, -1), range.low);
  range.high = at::where(empty, at::full_like(range.high, 1), range.high);
  return range;
}

Grid Lay(const Range& range, bool symmetric, double part) {
  const at::Tensor low = range.low.mul(part);
  const at::Tensor scale =
      range.high.mul(part).sub(low).div(kMaxCode).to(at::kHalf).to(at::kFloat);
  const at::Tensor zero = symmetric ? at::full_like(scale, (kMaxCode + 1) / 2)
                                    : low.neg().div(scale).round();
  return {scale.unsqueeze(1), zero.unsqueeze(1)};
}

at::Tensor Codes(const at::Tensor& x, const Grid& grid) {
  return x.div(grid.scale).round().add(grid.zero).clamp(0, kMaxCode);
}

// sum |w^ - w|^2.4 of each row.
at::Tensor PowerError(const at::Tensor& x, const Grid& grid) {
  const at::Tensor q = Codes(x, grid).sub(grid.zero).mul(grid.scale);
  return q.sub_(x).abs_().pow_(2.4).sum(1);
}

at::Tensor Shrink(const at::Tensor& x, double beta, double p) {
  return x.sign().mul(
      at::relu(x.abs().sub(x.abs().pow(p - 1).mul(1.0 / beta))));
}

}  // namespace

at::Tensor EagerNearest(const at::Tensor& weight, int64_t group_size,
                        bool symmetric) {
  const at::Tensor x = weight.reshape({-1, group_size});
  const Grid grid = Lay(FindRange(x, symmetric), symmetric, 1);
  return Codes(x, grid).to(at::kByte).view(weight.sizes());
}

at::Tensor EagerNearestOfSearched(const at::Tensor& weight, int64_t group_size,
                                  bool symmetric) {
  const at::Tensor x = weight.reshape({-1, group_size});
  const Range range = FindRange(x, symmetric);
  Grid grid = Lay(range, symmetric, 1);
  at::Tensor best =
      at::full({x.size(0)}, std::numeric_limits<float>::infinity());
  for (int i = 0; i < 80; ++i) {
    const Grid tried = Lay(range, symmetric, 1 - i / 100.0);
    const at::Tensor error = PowerError(x, tried);
    const at::Tensor better = error.lt(best);
    if (!better.any().item<bool>()) continue;
    best = at::where(better, error, best);
    const at::Tensor rows = better.unsqueeze(1);
    grid.scale = at::where(rows, tried.scale, grid.scale);
    grid.zero = at::where(rows, tried.zero, grid.zero);
  }
  return Codes(x, grid).to(at::kByte).view(weight.sizes());
}

at::Tensor EagerPack(const at::Tensor& codes) {
  const at::Tensor wide = codes.view({codes.size(0), -1, 8}).to(at::kInt);
  at::Tensor words = wide.select(2, 0).clone();
  for (int64_t j = 1; j < 8; ++j) {
    words.bitwise_or_(wide.select(2, j).bitwise_left_shift(4 * j));
  }
  return words;
}

at::Tensor EagerHqq(const at::Tensor& weight, int64_t group_size,
                    int64_t steps) {
  constexpr double kBeta = 10;
  const at::Tensor w = weight.reshape({-1, group_size});
  const at::Tensor low = std::get<0>(w.min(1, /*keepdim=*/true));
  const at::Tensor range = std::get<0>(w.max(1, /*keepdim=*/true)).sub(low);
  const at::Tensor scale =
      at::where(range.abs().le(1e-4), at::full_like(range, 1),
                range.reciprocal().mul(kMaxCode))
          .clamp_max(2e4);
  at::Tensor zero = low.neg().mul(scale).round();
  double best = 1e4;
  for (int64_t i = 0; i < steps; ++i) {
    const at::Tensor q = w.mul(scale).add(zero).round().clamp(0, kMaxCode);
    const at::Tensor r = q.sub(zero).div(scale);
    const at::Tensor e = Shrink(w.sub(r), kBeta, 0.7);
    zero = q.sub(w.sub(e).mul(scale)).mean(1, /*keepdim=*/true);
    const double error = w.sub(r).abs().mean().item<float>();
    if (error < best) best = error;
  }
  return w.mul(scale)
      .add(zero)
      .round()
      .clamp(0, kMaxCode)
      .to(at::kByte)
      .view(weight.sizes());
}

}  // namespace quantd::bench
