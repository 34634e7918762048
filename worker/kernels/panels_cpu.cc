// SPDX-License-Identifier: Apache-2.0
// The blocked product of Goto and van de Geijn, "Anatomy of high-performance
// matrix multiplication" (ACM TOMS 34(3), 2008): a tile of the result stays in
// registers while it runs along the depth of two packed panels.
#include "worker/kernels/panels_cpu.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/kernels/panels_cpu.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quantd::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using F = hn::CappedTag<float, 16>;
using V = hn::Vec<F>;

constexpr int kLanes = HWY_MIN(16, HWY_LANES(float));
// The tile: kRows x kVectors vectors of sums, kVectors vectors of the right
// panel and one broadcast of the left fill 16 registers, or 32 where vectors
// are 64 bytes long.
constexpr int kVectors = 3;
constexpr int kRows = kLanes >= 16 ? 8 : 4;
constexpr int kColumns = kVectors * kLanes;
// Rows that are multiplied with one right panel after another: their left
// panels, 240 KiB, stay in the second-level cache.
constexpr int64_t kBlockRows = 240;

PanelLines Lines() { return {kRows, kColumns}; }

// out[kRows, kColumns] = or += left x right over `depth`.
HWY_ATTR HWY_INLINE void Tile(const float* HWY_RESTRICT left,
                              const float* HWY_RESTRICT right, int64_t depth,
                              bool accumulate, float* out, int64_t stride) {
  const F f;
  V sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) sum[r][v] = hn::Zero(f);
  }
  for (int64_t k = 0; k < depth; ++k) {
    V column[kVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      column[v] = hn::LoadU(f, right + v * kLanes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const V factor = hn::Set(f, left[r]);
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = hn::MulAdd(factor, column[v], sum[r][v]);
      }
    }
    left += kRows;
    right += kColumns;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      float* to = out + r * stride + v * kLanes;
      const V before = accumulate ? hn::LoadU(f, to) : hn::Zero(f);
      hn::StoreU(hn::Add(before, sum[r][v]), f, to);
    }
  }
}

// A tile of which not all is wanted, through a full one: of each row, columns
// [first_column + row, columns).
HWY_ATTR void EdgeTile(const float* left, const float* right, int64_t depth,
                       bool accumulate, int64_t rows, int64_t first_column,
                       int64_t columns, float* out, int64_t stride) {
  float full[kRows * kColumns];
  Tile(left, right, depth, /*accumulate=*/false, full, kColumns);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = std::max<int64_t>(0, first_column + r); c < columns; ++c) {
      float& to = out[r * stride + c];
      to = (accumulate ? to : 0.0f) + full[r * kColumns + c];
    }
  }
}

// The depths of [begin, end) at which neither side of a tile is all zeros.
struct Depths {
  int64_t begin;
  int64_t end;
};
Depths Clip(const Operand& operand, int64_t line, int64_t lines, Depths d) {
  if (operand.zeros == ZeroPart::kDepthBelowLine) {
    d.begin = std::max(d.begin, line);
  }
  if (operand.zeros == ZeroPart::kDepthAboveLine) {
    d.end = std::min(d.end, line + lines);
  }
  return d;
}

HWY_ATTR void MultiplyTile(const Product& p, int64_t begin, int64_t end,
                           const float* left, const float* right, int64_t row,
                           int64_t column) {
  if (p.upper_only && row > column + kColumns - 1) return;
  const Depths depths =
      Clip(p.right, column, kColumns, Clip(p.left, row, kRows, {begin, end}));
  const int64_t depth = std::max<int64_t>(0, depths.end - depths.begin);
  const bool accumulate = p.accumulate || begin > 0;
  if (depth == 0 && accumulate) return;
  const int64_t skipped = depth == 0 ? 0 : depths.begin - begin;
  left += skipped * kRows;
  right += skipped * kColumns;
  float* out = p.out + row * p.out_stride + column;
  const int64_t rows = std::min<int64_t>(kRows, p.rows - row);
  const int64_t columns = std::min<int64_t>(kColumns, p.columns - column);
  const int64_t first_column = p.upper_only ? row - column : -kRows;
  const bool whole = first_column + kRows - 1 <= 0;
  if (whole && rows == kRows && columns == kColumns) {
    Tile(left, right, depth, accumulate, out, p.out_stride);
  } else {
    EdgeTile(left, right, depth, accumulate, rows, first_column, columns, out,
             p.out_stride);
  }
}

HWY_ATTR void Multiply(const Product& p, int64_t begin, int64_t end,
                       const float* left, const float* right, int64_t first,
                       int64_t last) {
  const int64_t depth = end - begin;
  constexpr int64_t kBlock = kBlockRows / kRows;
  for (int64_t block = first; block < last; block += kBlock) {
    const int64_t block_end = std::min(block + kBlock, last);
    for (int64_t j = 0; j * kColumns < p.columns; ++j) {
      const float* right_panel = right + j * kColumns * depth;
      for (int64_t i = block; i < block_end; ++i) {
        MultiplyTile(p, begin, end, left + i * kRows * depth, right_panel,
                     i * kRows, j * kColumns);
      }
    }
  }
}

// `width` is one of two constants, so that the inner loop becomes vectors.
template <int kWidth>
HWY_ATTR HWY_INLINE void PackLines(const Operand& operand, int64_t line,
                                   int64_t count, int64_t begin, int64_t end,
                                   float* panel) {
  const float* from = operand.data + line * operand.line_stride;
  if (count == kWidth && operand.line_stride == 1) {
    const hn::CappedTag<float, kWidth % kLanes == 0 ? kLanes : 4> part;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(part));
    for (int64_t k = begin; k < end; ++k) {
      const float* row = from + k * operand.depth_stride;
      for (int64_t i = 0; i < kWidth; i += lanes) {
        hn::StoreU(hn::LoadU(part, row + i), part, panel + i);
      }
      panel += kWidth;
    }
    return;
  }
  for (int64_t i = 0; i < kWidth; ++i) {
    const float* row = from + i * operand.line_stride;
    for (int64_t k = begin; k < end; ++k) {
      panel[(k - begin) * kWidth + i] =
          i < count ? row[k * operand.depth_stride] : 0.0f;
    }
  }
}

HWY_ATTR void Pack(const Operand& operand, int64_t line, int64_t count,
                   int64_t width, int64_t begin, int64_t end,
                   const float* scale, float* panel) {
  if (width == kRows) {
    PackLines<kRows>(operand, line, count, begin, end, panel);
  } else {
    PackLines<kColumns>(operand, line, count, begin, end, panel);
  }
  if (operand.zeros != ZeroPart::kNone) {
    const bool below = operand.zeros == ZeroPart::kDepthBelowLine;
    for (int64_t k = begin; k < end; ++k) {
      for (int64_t i = 0; i < count; ++i) {
        const bool zero = below ? k < line + i : k > line + i;
        if (zero) panel[(k - begin) * width + i] = 0;
      }
    }
  }
  if (scale == nullptr) return;
  for (int64_t k = begin; k < end; ++k) {
    for (int64_t i = 0; i < width; ++i) {
      panel[(k - begin) * width + i] *= scale[k];
    }
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd::kernels {

HWY_EXPORT(Lines);
HWY_EXPORT(Pack);
HWY_EXPORT(Multiply);

PanelLines GetPanelLines() { return HWY_DYNAMIC_DISPATCH(Lines)(); }

void PackPanel(const Operand& operand, int64_t line, int64_t count,
               int64_t width, int64_t begin, int64_t end, const float* scale,
               float* panel) {
  HWY_DYNAMIC_DISPATCH(Pack)
  (operand, line, count, width, begin, end, scale, panel);
}

void MultiplyPanels(const Product& product, int64_t begin, int64_t end,
                    const float* left, const float* right, int64_t first,
                    int64_t last) {
  HWY_DYNAMIC_DISPATCH(Multiply)
  (product, begin, end, left, right, first, last);
}

}  // namespace quantd::kernels
#endif  // HWY_ONCE
