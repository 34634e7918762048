// SPDX-License-Identifier: Apache-2.0
// The CPU loops over plain pointers, compiled once per instruction set and
// chosen at run time. No LibTorch here: threads are the caller's.
#pragma once

#include <cstdint>

#include "worker/kernels/integer_grid.h"

namespace quantd::kernels {

// Rows that one call of QuantizePanel takes.
inline constexpr int64_t kPanelRows = 32;

// Columns [begin, end) of at most kPanelRows rows. Pointers are to the first
// row of the panel (or to its first group, code ...), row-major, `in_features`
// or `groups` apart; see ColumnLoop for what they hold.
struct ColumnPanel {
  int64_t rows = 0;
  int64_t in_features = 0;
  int64_t groups = 0;
  int64_t begin = 0;
  int64_t end = 0;
  const float* corrected = nullptr;
  // Rows begin .. end of the feedback matrix, columns begin .. end only,
  // `feedback_stride` apart.
  const float* feedback = nullptr;
  int64_t feedback_stride = 0;
  const float* pivots = nullptr;  // [in]
  uint8_t* codes = nullptr;
  float* scales = nullptr;
  uint8_t* zeros = nullptr;
  const int32_t* column_group = nullptr;
  float* loss = nullptr;
  // [rows, end - begin], written: v - w^, for the columns after `end`.
  float* error = nullptr;
  IntegerGridRule rule;
  int64_t group_size = 0;
  int64_t block_size = 0;
};

// Thread-safe for disjoint panels. Allocates its scratch.
void QuantizePanel(const ColumnPanel& panel);

struct RoundingRows {
  int64_t rows = 0;
  int64_t in_features = 0;
  int64_t group_size = 0;
  const float* weight = nullptr;
  uint8_t* codes = nullptr;
  float* scales = nullptr;
  uint8_t* zeros = nullptr;
  IntegerGridRule rule;
};

// Thread-safe for disjoint rows.
void RoundRows(const RoundingRows& rows);

}  // namespace quantd::kernels
