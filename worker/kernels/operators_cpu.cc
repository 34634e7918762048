// SPDX-License-Identifier: Apache-2.0
// What the operators do on the CPU.
#include "worker/kernels/operators_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <tuple>
#include <vector>

#include "worker/kernels/columns_cpu.h"
#include "worker/kernels/factor_cpu.h"
#include "worker/kernels/operators.h"
#include "worker/kernels/product.h"
#include "worker/kernels/token_losses_cpu.h"

namespace quantd::kernels {
namespace {

// F[begin:end, begin:end], rows `stride` apart. In the whole matrix rows lie a
// power of two apart, which maps a column of it to a few cache sets.
std::vector<float> PackFeedback(const ColumnRange& range, int64_t stride) {
  const int64_t in = range.loop.corrected.size(1);
  const int64_t width = range.end - range.begin;
  std::vector<float> packed(width * stride);
  const float* feedback = range.loop.feedback.const_data_ptr<float>();
  for (int64_t i = 0; i < width; ++i) {
    memcpy(packed.data() + i * stride,
           feedback + (range.begin + i) * in + range.begin,
           width * sizeof(float));
  }
  return packed;
}

// The panel of rows that starts at `row`.
ColumnPanel MakePanel(const ColumnRange& range, int64_t row) {
  const ColumnLoop& loop = range.loop;
  ColumnPanel panel;
  panel.rows = std::min(kPanelRows, loop.corrected.size(0) - row);
  panel.in_features = loop.corrected.size(1);
  panel.groups = loop.scales.size(1);
  panel.begin = range.begin;
  panel.end = range.end;
  panel.corrected =
      loop.corrected.const_data_ptr<float>() + row * panel.in_features;
  panel.pivots = loop.pivots.const_data_ptr<float>();
  panel.codes = loop.codes.data_ptr<uint8_t>() + row * panel.in_features;
  panel.scales = loop.scales.data_ptr<float>() + row * panel.groups;
  panel.zeros = loop.zeros.data_ptr<uint8_t>() + row * panel.groups;
  if (loop.column_group.defined()) {
    panel.column_group = loop.column_group.const_data_ptr<int32_t>();
  }
  panel.loss = loop.loss.data_ptr<float>() + row;
  panel.rule = loop.rule;
  panel.group_size = loop.group_size;
  panel.block_size = loop.block_size;
  return panel;
}

// A row-major matrix as the right side of a product, its columns the lines.
Operand Columns(const float* data, int64_t stride) {
  Operand operand;
  operand.data = data;
  operand.line_stride = 1;
  operand.depth_stride = stride;
  return operand;
}

// a G a^T for one row, from a times the upper triangle of G.
double RowEnergy(const float* row, const float* image, const float* diagonal,
                 int64_t n) {
  double sum = 0;
  for (int64_t j = 0; j < n; ++j) {
    const double twice = 2.0 * image[j] - double{diagonal[j]} * row[j];
    sum += row[j] * twice;
  }
  return sum;
}

}  // namespace

void GptqColumnsCpu(at::TensorList state,
                    const std::optional<at::Tensor>& column_group,
                    at::IntArrayRef layout) {
  const ColumnRange range = UnpackColumnLoop(state, column_group, layout);
  const int64_t rows = range.loop.corrected.size(0);
  const int64_t width = range.end - range.begin;
  constexpr int64_t kPadding = 16;
  const int64_t stride = width + kPadding;
  const std::vector<float> feedback = PackFeedback(range, stride);
  const at::Tensor error =
      at::empty({rows, width}, range.loop.corrected.options());
  float* error_data = error.data_ptr<float>();
  const int64_t panels = (rows + kPanelRows - 1) / kPanelRows;
  at::parallel_for(0, panels, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      ColumnPanel panel = MakePanel(range, i * kPanelRows);
      panel.feedback = feedback.data();
      panel.feedback_stride = stride;
      panel.error = error_data + i * kPanelRows * width;
      QuantizePanel(panel);
    }
  });
  const int64_t rest = range.loop.corrected.size(1) - range.end;
  if (rest == 0) return;
  const int64_t in = range.loop.corrected.size(1);
  Product later;
  later.rows = rows;
  later.columns = rest;
  later.depth = width;
  later.left.data = error_data;
  later.left.line_stride = width;
  later.right = Columns(range.loop.feedback.const_data_ptr<float>() +
                            range.begin * in + range.end,
                        in);
  later.out = range.loop.corrected.data_ptr<float>() + range.end;
  later.out_stride = in;
  Multiply(later);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> RoundToNearestCpu(
    const at::Tensor& weight, int64_t group_size, int64_t max_code,
    bool symmetric, int64_t scale_type) {
  const int64_t rows = weight.size(0);
  const int64_t in = weight.size(1);
  const int64_t groups = (in + group_size - 1) / group_size;
  const at::Tensor codes =
      at::empty({rows, in}, weight.options().dtype(at::kByte));
  const at::Tensor scales = at::empty({rows, groups}, weight.options());
  const at::Tensor zeros =
      at::empty({rows, groups}, weight.options().dtype(at::kByte));
  RoundingRows all;
  all.in_features = in;
  all.group_size = group_size;
  all.weight = weight.const_data_ptr<float>();
  all.codes = codes.data_ptr<uint8_t>();
  all.scales = scales.data_ptr<float>();
  all.zeros = zeros.data_ptr<uint8_t>();
  all.rule = {static_cast<int32_t>(max_code), symmetric,
              static_cast<ScaleType>(scale_type)};
  // A thread should get tens of thousands of weights or it is not worth waking.
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, in));
  at::parallel_for(0, rows, grain, [&](int64_t first, int64_t last) {
    RoundingRows part = all;
    part.rows = last - first;
    part.weight += first * in;
    part.codes += first * in;
    part.scales += first * groups;
    part.zeros += first * groups;
    RoundRows(part);
  });
  return {codes, scales, zeros};
}

void GramAddCpu(const at::Tensor& gram, const at::Tensor& input) {
  Product product;
  product.rows = product.columns = gram.size(0);
  product.depth = input.size(0);
  product.left.data = input.const_data_ptr<float>();
  product.left.line_stride = input.stride(1);
  product.left.depth_stride = input.stride(0);
  product.right = product.left;
  product.out = gram.data_ptr<float>();
  product.out_stride = gram.stride(0);
  product.upper_only = true;
  Multiply(product);
}

bool FeedbackFactorCpu(const at::Tensor& matrix, const at::Tensor& pivots) {
  const int64_t n = matrix.size(0);
  const int64_t stride = matrix.stride(0);
  float* data = matrix.data_ptr<float>();
  if (!FactorInverse(data, stride, n, pivots.data_ptr<float>())) return false;
  std::vector<uint8_t> finite(n, 1);
  at::parallel_for(0, n, 16, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      float* row = data + i * stride;
      // A sum with an infinity or NaN in it is not finite either.
      float sum = 0;
      for (int64_t j = i; j < n; ++j) {
        row[j] = -row[j];
        sum += row[j];
      }
      finite[i] = std::isfinite(sum);
    }
  });
  return std::all_of(finite.begin(), finite.end(),
                     [](uint8_t row) { return row != 0; });
}

// G = U + U^T - diag(G): half the product gives it all.
double GramEnergyCpu(const at::Tensor& rows, const at::Tensor& gram) {
  constexpr int64_t kStrip = 1024;
  const int64_t in = gram.size(0);
  const at::Tensor a = rows.contiguous();
  const at::Tensor diagonal = gram.diagonal().contiguous();
  const float* diagonal_data = diagonal.const_data_ptr<float>();
  const at::Tensor image =
      at::empty({std::min(kStrip, a.size(0)), in}, a.options());
  std::vector<double> energy(a.size(0));
  for (int64_t first = 0; first < a.size(0); first += kStrip) {
    Product product;
    product.rows = std::min(kStrip, a.size(0) - first);
    product.columns = product.depth = in;
    product.left.data = a.const_data_ptr<float>() + first * in;
    product.left.line_stride = in;
    product.right = Columns(gram.const_data_ptr<float>(), gram.stride(0));
    product.right.zeros = ZeroPart::kDepthAboveLine;
    product.out = image.data_ptr<float>();
    product.out_stride = in;
    product.accumulate = false;
    Multiply(product);
    at::parallel_for(0, product.rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        energy[first + i] = RowEnergy(product.left.data + i * in,
                                      product.out + i * in, diagonal_data, in);
      }
    });
  }
  return std::accumulate(energy.begin(), energy.end(), 0.0);
}

std::tuple<at::Tensor, at::Tensor> TokenLossesCpu(const at::Tensor& logits,
                                                  const at::Tensor& targets) {
  const int64_t rows = logits.size(0);
  const int64_t n = logits.size(1);
  const at::Tensor source = logits.contiguous();
  const float* data = source.const_data_ptr<float>();
  const int64_t* target = targets.const_data_ptr<int64_t>();
  at::Tensor losses = at::empty({rows}, logits.options().dtype(at::kDouble));
  at::Tensor best = at::empty({rows}, targets.options());
  double* losses_data = losses.data_ptr<double>();
  int64_t* best_data = best.data_ptr<int64_t>();
  at::parallel_for(0, rows, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const TokenLoss one = LossOfToken(data + i * n, n, target[i]);
      losses_data[i] = one.loss;
      best_data[i] = one.best;
    }
  });
  return {losses, best};
}

}  // namespace quantd::kernels
