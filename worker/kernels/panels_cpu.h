// SPDX-License-Identifier: Apache-2.0
// The inner loops of the matrix product over plain pointers, compiled once per
// instruction set and chosen at run time. No LibTorch here: threads are the
// caller's (product.cc).
#pragma once

#include <cstdint>

namespace quantd::kernels {

// Which elements of an operand are zero whatever memory holds there.
enum class ZeroPart { kNone, kDepthBelowLine, kDepthAboveLine };

// One side of a product: the rows of the left matrix or the columns of the
// right one, called lines. Element k of line i is
// data[i * line_stride + k * depth_stride].
struct Operand {
  const float* data = nullptr;
  int64_t line_stride = 0;
  int64_t depth_stride = 1;
  ZeroPart zeros = ZeroPart::kNone;
};

// out[i, j] (+)= sum_k left[i, k] * depth_scale[k] * right[j, k].
struct Product {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t depth = 0;
  Operand left;
  Operand right;
  // [depth]; null: all ones.
  const float* depth_scale = nullptr;
  float* out = nullptr;
  int64_t out_stride = 0;
  // False: `out` is overwritten.
  bool accumulate = true;
  // Only i <= j is written.
  bool upper_only = false;
};

// Lines per panel: a panel holds [depth][lines], zeros after the last line.
struct PanelLines {
  int64_t left = 0;
  int64_t right = 0;
};
PanelLines GetPanelLines();

// Depth that is packed at a time. A right panel of it stays in the first-level
// cache while left panels stream past.
inline constexpr int64_t kPanelDepth = 256;

// Packs `count` lines from `line` on, at most a panel's `width` of them, for
// depths [begin, end), each times scale[depth] where `scale` is not null.
void PackPanel(const Operand& operand, int64_t line, int64_t count,
               int64_t width, int64_t begin, int64_t end, const float* scale,
               float* panel);

// The part of `product` that depths [begin, end) give to the rows of left
// panels [first, last), all columns. `left` and `right` are all the panels of
// that depth. Thread-safe for disjoint rows.
void MultiplyPanels(const Product& product, int64_t begin, int64_t end,
                    const float* left, const float* right, int64_t first,
                    int64_t last);

}  // namespace quantd::kernels
