// SPDX-License-Identifier: Apache-2.0
// Rounding to a table of levels: small floating-point types and codebooks. Like
// integer_grid.h the only place that knows the rule, for host and device.
#pragma once

#include <cstdint>
#include <cstring>

#include "worker/kernels/integer_grid.h"

namespace quantd::kernels {

// A float's bits as an integer of the same order; -0 comes before +0.
QUANTD_HOST_DEVICE inline int32_t OrderedKey(float value) {
  int32_t word;
  memcpy(&word, &value, sizeof(word));
  return word < 0 ? word ^ 0x7fffffff : word;
}

// The codes of a table in the order of their levels. What lies at or above
// keys[i] and below keys[i + 1] is rounded to codes[i]; ties are part of the
// keys. keys[0] is the least integer.
struct LevelGridRule {
  int32_t size = 0;  // 1 .. 256
  // Values are multiplied with the rounded reciprocal of the scale and not
  // divided by it, as some published implementations do.
  bool reciprocal = false;
  int32_t keys[256] = {};
  uint8_t codes[256] = {};
  float levels[256] = {};  // By code.
};

// `value` in units of the scale. A scale of 0 makes every value 0.
QUANTD_HOST_DEVICE inline float InUnits(float value, float scale,
                                        const LevelGridRule& rule) {
  if (scale == 0) return 0;
  return rule.reciprocal ? value * (1.0f / scale) : value / scale;
}

// The code nearest to `value`, which is in units of the scale and no NaN.
QUANTD_HOST_DEVICE inline uint8_t NearestLevel(float value,
                                               const LevelGridRule& rule) {
  const int32_t key = OrderedKey(value);
  int32_t low = 0;
  int32_t high = rule.size;
  while (high - low > 1) {
    const int32_t middle = (low + high) / 2;
    if (rule.keys[middle] <= key) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return rule.codes[low];
}

}  // namespace quantd::kernels
