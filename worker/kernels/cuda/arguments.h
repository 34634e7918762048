// SPDX-License-Identifier: Apache-2.0
// What the kernels take: plain structs that g++ and nvcc both read.
#pragma once

#include <cstdint>

#include "worker/kernels/integer_grid.h"

namespace quantd::kernels {

inline constexpr int kWarp = 32;
// Columns a lane holds; a launch takes at most kWarp * kLaneColumns of them.
inline constexpr int kLaneColumns = 4;
inline constexpr int kBlockColumns = kWarp * kLaneColumns;
inline constexpr int kColumnsThreads = 128;

// Row-major device pointers to the whole layer; see ColumnLoop for their
// meaning.
struct ColumnsArguments {
  int64_t rows = 0;
  int64_t in_features = 0;
  int64_t groups = 0;
  // The block; end - begin <= kBlockColumns.
  int64_t begin = 0;
  int64_t end = 0;
  const float* corrected = nullptr;
  const float* feedback = nullptr;
  const float* pivots = nullptr;
  uint8_t* codes = nullptr;
  float* scales = nullptr;
  uint8_t* zeros = nullptr;
  // Null: column j belongs to group j / group_size.
  const int32_t* column_group = nullptr;
  float* loss = nullptr;
  // [rows, end - begin]: v - w^, for the product that feeds later columns.
  float* error = nullptr;
  IntegerGridRule rule;
  int64_t group_size = 0;
};

struct RoundingArguments {
  int64_t rows = 0;
  int64_t in_features = 0;
  int64_t groups = 0;
  int64_t group_size = 0;
  const float* weight = nullptr;
  uint8_t* codes = nullptr;
  float* scales = nullptr;
  uint8_t* zeros = nullptr;
  IntegerGridRule rule;
};

struct GramArguments {
  int64_t tokens = 0;
  int64_t in_features = 0;
  const float* input = nullptr;  // [tokens, in]
  float* gram = nullptr;         // [in, in]
};

}  // namespace quantd::kernels
