// SPDX-License-Identifier: Apache-2.0
// Rounding to a table of levels over plain pointers, compiled once per
// instruction set and chosen at run time. No LibTorch here: threads are the
// caller's.
#pragma once

#include <cstdint>

#include "worker/kernels/level_grid.h"

namespace quantd::kernels {

// How the levels of a rule lie, where their codes can be computed and need not
// be searched for.
struct LevelSpacing {
  enum class Kind {
    kTable,  // They cannot.
    // A floating-point type: codes are sign and magnitude, ties go to even
    // codes, signs are kept.
    kFloat,
    // Multiples of a power of two: codes are two's complement, ties go to even
    // ones.
    kEven,
  };
  Kind kind = Kind::kTable;
  float largest = 0;           // The largest level.
  int32_t exponent_bits = 0;   // kFloat.
  int32_t mantissa_bits = 0;   // kFloat, at least 1.
  int32_t least_exponent = 0;  // kFloat: of the normal numbers.
  float per_unit = 0;          // kEven: codes per 1.
};

// A rule, and the same once more for vectors.
struct LevelLookup {
  LevelGridRule rule;
  LevelSpacing spacing = {};
};

// `rows` x `columns` values, none of them NaN, and their codes, both without
// gaps; row r has scales[r]:
//   codes[i] = NearestLevel(InUnits(values[i], scales[r], rule), rule).
// Thread-safe.
void RoundToLevels(const float* values, int64_t rows, int64_t columns,
                   const float* scales, const LevelLookup& table,
                   uint8_t* codes);

}  // namespace quantd::kernels
