// SPDX-License-Identifier: Apache-2.0
// The ranges of rows and rounding them to integer grids, over plain pointers.
// No LibTorch here: threads are the caller's. Thread-safe for disjoint rows.
#pragma once

#include <cstdint>
#include <vector>

namespace quantd::kernels {

// A thread should get tens of thousands of values or it is not worth waking:
// the grain of at::parallel_for over rows of `columns` values.
inline int64_t RowsPerThread(int64_t columns) {
  constexpr int64_t kValues = 32768;
  return columns < kValues ? kValues / columns : 1;
}

// Rows that lie one after the other.
struct Rows {
  int64_t rows = 0;
  int64_t columns = 0;  // At least 1.
  const float* values = nullptr;

  Rows Slice(int64_t first, int64_t last) const {
    return {last - first, columns, values + first * columns};
  }
};

// The largest |x| of each row; not finite where a value of it is not.
void RowMagnitudes(const Rows& rows, float* largest);

// The smallest and the largest value of each row, all finite.
void RowRanges(const Rows& rows, float* low, float* high);

// The codes nearest to the values of row r on its grid, a scale and a zero
// point: NearestCode of integer_grid.h.
void RoundToGrids(const Rows& rows, const float* scales, const float* zeros,
                  int32_t max_code, uint8_t* codes);

// Grids to choose from for one row.
struct GridChoice {
  std::vector<float> scales = {};
  std::vector<float> zeros = {};
  int32_t max_code = 15;
  float norm = 2.4f;
  // What the error of each value counts; null: all alike.
  const float* importance = nullptr;
};

// The first grid with the least sum of |w^ - w|^norm, w^ what `values`, `count`
// of them, are rounded to. Powers in float32, their sum in float64.
int64_t LeastErrorGrid(const float* values, int64_t count,
                       const GridChoice& choice);

}  // namespace quantd::kernels
