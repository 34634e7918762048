// SPDX-License-Identifier: Apache-2.0
#include "worker/kernels/level_columns.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "worker/kernels/product.h"

namespace quantd::kernels {
namespace {

// The block of columns [begin, end).
struct Block {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t in = 0;
  int64_t groups = 0;
  const float* feedback = nullptr;
  const float* pivots = nullptr;
  const int32_t* column_group = nullptr;
};

// One row of each. `error` [end - begin], written.
struct Row {
  float* corrected = nullptr;
  const float* scales = nullptr;
  uint8_t* codes = nullptr;
  float* error = nullptr;
  float* loss = nullptr;
};

void RoundRow(const Block& block, const LevelGridRule& levels, const Row& row) {
  float loss = 0;
  for (int64_t c = block.begin; c < block.end; ++c) {
    const float value = row.corrected[c];
    const float scale = row.scales[block.column_group[c]];
    const uint8_t code = NearestLevel(InUnits(value, scale, levels), levels);
    const float miss = value - scale * levels.levels[code];
    row.codes[c] = code;
    row.error[c - block.begin] = miss;
    loss += 0.5f * block.pivots[c] * miss * miss;
    const float* factors = block.feedback + c * block.in;
    for (int64_t j = c + 1; j < block.end; ++j) {
      row.corrected[j] += miss * factors[j];
    }
  }
  *row.loss += loss;
}

void RoundBlock(const ColumnLoop& loop, const LevelGridRule& levels,
                const Block& block, const at::Tensor& error) {
  float* corrected = loop.corrected.data_ptr<float>();
  const float* scales = loop.scales.const_data_ptr<float>();
  uint8_t* codes = loop.codes.data_ptr<uint8_t>();
  float* errors = error.data_ptr<float>();
  float* loss = loop.loss.data_ptr<float>();
  const int64_t width = block.end - block.begin;
  at::parallel_for(0, error.size(0), 4, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      RoundRow(block, levels,
               {corrected + r * block.in, scales + r * block.groups,
                codes + r * block.in, errors + r * width, loss + r});
    }
  });
}

// corrected[:, end:] += error F[begin:end, end:].
void Feed(const ColumnLoop& loop, const Block& block, const at::Tensor& error) {
  Product product;
  product.rows = error.size(0);
  product.columns = block.in - block.end;
  product.depth = error.size(1);
  if (product.columns == 0) return;
  product.left.data = error.const_data_ptr<float>();
  product.left.line_stride = product.depth;
  product.right.data = block.feedback + block.begin * block.in + block.end;
  product.right.line_stride = 1;
  product.right.depth_stride = block.in;
  product.out = loop.corrected.data_ptr<float>() + block.end;
  product.out_stride = block.in;
  Multiply(product);
}

}  // namespace

void GptqLevelColumns(const ColumnLoop& loop, const LevelGridRule& levels,
                      int64_t begin, int64_t end) {
  Block block;
  block.in = loop.corrected.size(1);
  block.groups = loop.scales.size(1);
  block.feedback = loop.feedback.const_data_ptr<float>();
  block.pivots = loop.pivots.const_data_ptr<float>();
  block.column_group = loop.column_group.const_data_ptr<int32_t>();
  for (block.begin = begin; block.begin < end; block.begin = block.end) {
    block.end = std::min(block.begin + loop.block_size, end);
    const at::Tensor error = at::empty(
        {loop.corrected.size(0), block.end - block.begin}, at::kFloat);
    RoundBlock(loop, levels, block, error);
    Feed(loop, block, error);
  }
}

}  // namespace quantd::kernels
