// SPDX-License-Identifier: Apache-2.0
// Rounding to a table of levels over plain pointers, compiled once per
// instruction set and chosen at run time. No LibTorch here: threads are the
// caller's.
#pragma once

#include <cstdint>

#include "worker/kernels/level_grid.h"

namespace quantd::kernels {

// codes[i] = NearestLevel(InUnits(values[i], scale, rule), rule) for `count`
// values, none of them NaN. Thread-safe.
void RoundToLevels(const float* values, int64_t count, float scale,
                   const LevelGridRule& rule, uint8_t* codes);

}  // namespace quantd::kernels
