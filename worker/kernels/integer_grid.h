// SPDX-License-Identifier: Apache-2.0
// The min-max rule of the integer grids, one group at a time. The only place
// that knows it: formats, the CPU loops and the CUDA kernels all call it, so
// that they agree to the bit. docs/formats/int.md has it in words.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define QUANTD_HOST_DEVICE __host__ __device__
#else
#define QUANTD_HOST_DEVICE
#endif

namespace quantd::kernels {

// What scales are stored as. The numbers are part of the operator's schema.
enum class ScaleType : int32_t { kFloat16 = 0, kBfloat16 = 1, kFloat32 = 2 };

struct IntegerGridRule {
  int32_t max_code = 15;  // 2^bits - 1
  bool symmetric = true;
  ScaleType scale_type = ScaleType::kFloat16;
};

// Code q stands for scale * (q - zero).
struct IntegerGrid {
  float scale = 1;
  float zero = 0;  // An integer, 0 .. max_code.
};

// Clears the low `bits` of a float's significand, to nearest, ties to even.
QUANTD_HOST_DEVICE inline float RoundSignificand(float value, int32_t bits) {
  uint32_t word;
  memcpy(&word, &value, sizeof(word));
  const uint32_t half = (1u << (bits - 1)) - 1;
  word += half + ((word >> bits) & 1u);
  word &= ~((1u << bits) - 1);
  memcpy(&value, &word, sizeof(value));
  return value;
}

// `scale` as it will be stored: nearest, then brought into the positive finite
// range of the type (float16 keeps its subnormals, 2^-24 .. 65504). `scale` is
// not negative and not NaN; +inf is allowed.
QUANTD_HOST_DEVICE inline float RoundScale(float scale, ScaleType type) {
  constexpr float kLeastHalf = 5.9604644775390625e-8f;     // 2^-24
  constexpr float kLeastNormalHalf = 6.103515625e-5f;      // 2^-14
  constexpr float kLeastNormal = 1.1754943508222875e-38f;  // 2^-126
  constexpr float kLargestHalf = 65504.0f;
  constexpr float kLargestBfloat = 3.3895313892515355e38f;
  constexpr float kLargest = 3.4028234663852886e38f;
  if (type == ScaleType::kFloat16) {
    if (scale >= kLargestHalf) return kLargestHalf;
    if (scale >= kLeastNormalHalf) return RoundSignificand(scale, 13);
    // Floats in [0.5, 1) are multiples of 2^-24, the spacing of subnormals.
    const float shifted = scale + 0.5f;
    const float rounded = shifted - 0.5f;
    return rounded < kLeastHalf ? kLeastHalf : rounded;
  }
  if (scale < kLeastNormal) return kLeastNormal;
  if (type == ScaleType::kFloat32) return scale > kLargest ? kLargest : scale;
  if (scale >= kLargestBfloat) return kLargestBfloat;
  return RoundSignificand(scale, 16);
}

// The grid of a group whose weights lie in [low, high], both finite.
// Symmetric: a = max(|low|, |high|), scale 2a / max_code, zero the middle code.
// Asymmetric: the range widened to hold 0. A group of zeros gets the grid of
// [-1, 1], so that a weight of 0 stays exactly 0 in every case.
QUANTD_HOST_DEVICE inline IntegerGrid ChooseIntegerGrid(
    float low, float high, const IntegerGridRule& rule) {
  if (low > 0) low = 0;
  if (high < 0) high = 0;
  if (rule.symmetric) {
    high = high > -low ? high : -low;
    low = -high;
  }
  if (low == 0 && high == 0) {
    low = -1;
    high = 1;
  }
  const float steps = static_cast<float>(rule.max_code);
  IntegerGrid grid;
  grid.scale = RoundScale((high - low) / steps, rule.scale_type);
  if (rule.symmetric) {
    grid.zero = static_cast<float>((rule.max_code + 1) / 2);
  } else {
    const float zero = nearbyintf(-low / grid.scale);
    grid.zero = zero > steps ? steps : zero;
  }
  return grid;
}

// The code nearest to `weight`, ties to even: a division and not a product with
// the reciprocal, as every published implementation has it.
QUANTD_HOST_DEVICE inline float NearestCode(float weight,
                                            const IntegerGrid& grid,
                                            int32_t max_code) {
  const float code = nearbyintf(weight / grid.scale) + grid.zero;
  const float largest = static_cast<float>(max_code);
  return code < 0 ? 0 : (code > largest ? largest : code);
}

}  // namespace quantd::kernels
