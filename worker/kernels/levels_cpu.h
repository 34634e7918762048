// SPDX-License-Identifier: Apache-2.0
// Rounding to a table of levels over plain pointers, compiled once per
// instruction set and chosen at run time. No LibTorch here: threads are the
// caller's.
#pragma once

#include <cstdint>

#include "worker/kernels/level_grid.h"

namespace quantd::kernels {

// `rows` x `columns` values, none of them NaN, and their codes, both without
// gaps; row r has scales[r]:
//   codes[i] = NearestLevel(InUnits(values[i], scales[r], rule), rule).
// Thread-safe.
void RoundToLevels(const float* values, int64_t rows, int64_t columns,
                   const float* scales, const LevelGridRule& rule,
                   uint8_t* codes);

}  // namespace quantd::kernels
