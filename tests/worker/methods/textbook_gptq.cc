// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/methods/textbook_gptq.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/linalg_cholesky.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

namespace quantd::methods {
namespace {

struct DoubleGrid {
  double scale;
  double zero;
};

// Rounds to float16 by the hardware-independent conversion of LibTorch, not by
// the bit arithmetic under test.
double RoundToHalf(double scale) {
  return static_cast<double>(
      static_cast<float>(c10::Half(static_cast<float>(scale))));
}

DoubleGrid ChooseDoubleGrid(const std::vector<double>& values,
                            const TextbookOptions& options) {
  double low = 0, high = 0;
  for (double v : values) {
    low = std::min(low, v);
    high = std::max(high, v);
  }
  if (options.symmetric) {
    high = std::max(high, -low);
    low = -high;
  }
  if (low == 0 && high == 0) {
    low = -1;
    high = 1;
  }
  DoubleGrid grid;
  grid.scale = (high - low) / options.max_code;
  if (options.half_scales) grid.scale = RoundToHalf(grid.scale);
  grid.zero = options.symmetric
                  ? (options.max_code + 1) / 2
                  : std::min<double>(std::nearbyint(-low / grid.scale),
                                     options.max_code);
  return grid;
}

struct Work {
  int64_t out, in, groups;
  std::vector<double> w;       // [out, in] in processing order
  std::vector<double> u;       // [in, in]
  std::vector<int64_t> group;  // of each processed column
  bool dynamic;
};

std::vector<double> ToVector(const at::Tensor& t) {
  const at::Tensor c = t.to(at::kDouble).contiguous();
  return {c.const_data_ptr<double>(), c.const_data_ptr<double>() + c.numel()};
}

DoubleGrid GroupGrid(const Work& work, int64_t row, int64_t group,
                     const TextbookOptions& options) {
  std::vector<double> members;
  for (int64_t c = 0; c < work.in; ++c) {
    if (work.group[c] == group) members.push_back(work.w[row * work.in + c]);
  }
  return ChooseDoubleGrid(members, options);
}

void QuantizeRow(Work* work, int64_t row, const std::vector<int64_t>& original,
                 const TextbookOptions& options, TextbookResult* result) {
  const int64_t in = work->in;
  double* w = work->w.data() + row * in;
  std::vector<DoubleGrid> grids(work->groups);
  if (!work->dynamic) {
    for (int64_t g = 0; g < work->groups; ++g) {
      grids[g] = GroupGrid(*work, row, g, options);
    }
  }
  for (int64_t c = 0; c < in; ++c) {
    const int64_t g = work->group[c];
    if (work->dynamic && c % options.group_size == 0) {
      grids[g] = GroupGrid(*work, row, g, options);
    }
    const double position = w[c] / grids[g].scale + grids[g].zero;
    const double code = std::clamp<double>(
        std::nearbyint(w[c] / grids[g].scale) + grids[g].zero, 0,
        options.max_code);
    const double value = grids[g].scale * (code - grids[g].zero);
    const double d = work->u[c * in + c];
    const double error = (w[c] - value) / d;
    result->loss += 0.5 * error * error;
    for (int64_t j = c + 1; j < in; ++j) w[j] -= error * work->u[c * in + j];
    const int64_t at = row * in + original[c];
    result->codes.data_ptr<int64_t>()[at] = static_cast<int64_t>(code);
    result->value.data_ptr<double>()[at] = value;
    result->margin.data_ptr<double>()[at] =
        std::abs(position - std::floor(position) - 0.5);
  }
  for (int64_t g = 0; g < work->groups; ++g) {
    const int64_t at = row * work->groups + g;
    result->scales.data_ptr<double>()[at] = grids[g].scale;
    result->zeros.data_ptr<double>()[at] = grids[g].zero;
  }
}

}  // namespace

at::Tensor DampedHessian(const at::Tensor& gram, int64_t tokens,
                         double percdamp) {
  at::Tensor hessian =
      gram.to(at::kDouble).mul(2.0 / static_cast<double>(tokens));
  hessian.diagonal().masked_fill_(hessian.diagonal().eq(0), 1);
  hessian.diagonal().add_(hessian.diagonal().mean().mul(percdamp));
  return hessian;
}

TextbookResult TextbookGptq(const at::Tensor& weight, const at::Tensor& gram,
                            int64_t tokens, const TextbookOptions& options) {
  Work work;
  work.out = weight.size(0);
  work.in = weight.size(1);
  work.groups = (work.in + options.group_size - 1) / options.group_size;
  const at::Tensor dead = gram.diagonal().eq(0);
  at::Tensor w = weight.to(at::kDouble).masked_fill(dead, 0);
  at::Tensor hessian = DampedHessian(gram, tokens, options.percdamp);
  at::Tensor order = at::arange(work.in);
  if (options.act_order) {
    order = at::argsort(hessian.diagonal(), true, 0, true);
    w = w.index_select(1, order);
    hessian = hessian.index_select(0, order).index_select(1, order);
  }
  const int64_t* perm = order.const_data_ptr<int64_t>();
  const std::vector<int64_t> original(perm, perm + work.in);
  work.w = ToVector(w);
  work.u = ToVector(
      at::linalg_cholesky(at::linalg_inv(hessian)).t());  // U^T U = H^-1
  work.dynamic = !options.static_groups;
  TextbookResult result;
  result.group_index.resize(work.in);
  for (int64_t c = 0; c < work.in; ++c) {
    work.group.push_back((work.dynamic ? c : original[c]) / options.group_size);
    result.group_index[original[c]] = work.group[c];
  }
  result.codes = at::zeros({work.out, work.in}, at::kLong);
  result.value = at::zeros({work.out, work.in}, at::kDouble);
  result.margin = at::zeros({work.out, work.in}, at::kDouble);
  result.scales = at::zeros({work.out, work.groups}, at::kDouble);
  result.zeros = at::zeros({work.out, work.groups}, at::kDouble);
  for (int64_t row = 0; row < work.out; ++row) {
    QuantizeRow(&work, row, original, options, &result);
  }
  return result;
}

}  // namespace quantd::methods
