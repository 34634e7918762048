// SPDX-License-Identifier: Apache-2.0
// What the operators do on the CPU, and on any device that brings no kernel.
#include "worker/kernels/operators_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <vector>

#include "worker/kernels/columns_cpu.h"
#include "worker/kernels/operators.h"

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

// Upper triangle of gram[begin:end, begin:end]: the square above the diagonal
// as one product, then both halves. At the leaves the whole block is computed,
// 128 columns of C, which wastes a share of 128 / C.
void AddTriangle(const at::Tensor& gram, const at::Tensor& input, int64_t begin,
                 int64_t end) {
  constexpr int64_t kLeaf = 128;
  const int64_t n = end - begin;
  if (n <= kLeaf) {
    const at::Tensor x = input.narrow(1, begin, n);
    gram.narrow(0, begin, n).narrow(1, begin, n).addmm_(x.t(), x);
    return;
  }
  const int64_t middle = begin + (n / 2 + kLeaf - 1) / kLeaf * kLeaf;
  const at::Tensor left = input.narrow(1, begin, middle - begin);
  const at::Tensor right = input.narrow(1, middle, end - middle);
  gram.narrow(0, begin, middle - begin)
      .narrow(1, middle, end - middle)
      .addmm_(left.t(), right);
  AddTriangle(gram, input, begin, middle);
  AddTriangle(gram, input, middle, end);
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
  range.loop.corrected.narrow(1, range.end, rest)
      .addmm_(error, range.loop.feedback.narrow(0, range.begin, width)
                         .narrow(1, range.end, rest));
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

void GramAddAny(const at::Tensor& gram, const at::Tensor& input) {
  // Tokens per product: bounds the packing buffers and fixes the order of sums.
  constexpr int64_t kChunk = 2048;
  for (int64_t first = 0; first < input.size(0); first += kChunk) {
    const int64_t n = std::min(kChunk, input.size(0) - first);
    AddTriangle(gram, input.narrow(0, first, n), 0, gram.size(0));
  }
}

}  // namespace quantd::kernels
