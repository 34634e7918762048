// SPDX-License-Identifier: Apache-2.0
#include "worker/kernels/hadamard_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/kernels/hadamard_cpu.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quantd::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using F = hn::CappedTag<float, 16>;
using V = hn::Vec<F>;

constexpr int64_t kLanes = HWY_MIN(16, HWY_LANES(float));
// Vectors of sums that MixRows keeps in registers.
constexpr int kSums = 4;

#if HWY_TARGET == HWY_SCALAR
// Vectors of one value have no partners within.
void WithinVectors(float*, int64_t) {}
#else
// Lane i is -1 where bit `half` of i is set, else 1.
HWY_ATTR HWY_INLINE V Signs(int64_t half) {
  HWY_ALIGN float signs[16];
  for (int64_t i = 0; i < kLanes; ++i) signs[i] = (i & half) != 0 ? -1 : 1;
  return hn::Load(F(), signs);
}

// The steps whose partners are in one vector. A partner is added to the value
// times 1 or -1, which is exact.
HWY_ATTR void WithinVectors(float* values, int64_t size) {
  const F f;
  const V sign1 = Signs(1);
  const V sign2 = Signs(2);
  const V sign4 = Signs(4);
  const V sign8 = Signs(8);
  for (int64_t i = 0; i < size; i += kLanes) {
    V v = hn::LoadU(f, values + i);
    v = hn::MulAdd(v, sign1, hn::Reverse2(f, v));
    v = hn::MulAdd(v, sign2, hn::Shuffle1032(v));
    if constexpr (kLanes >= 8) {
      v = hn::MulAdd(v, sign4, hn::SwapAdjacentBlocks(v));
    }
    if constexpr (kLanes >= 16) {
      v = hn::MulAdd(v, sign8, hn::ConcatLowerUpper(f, v, v));
    }
    hn::StoreU(v, f, values + i);
  }
}
#endif

HWY_ATTR void Walsh(float* values, int64_t size) {
  const F f;
  int64_t half = 1;
  if (size >= kLanes) {
    WithinVectors(values, size);
    half = kLanes;
  }
  for (; half < size; half *= 2) {
    const int64_t step = half < kLanes ? 1 : kLanes;
    for (int64_t start = 0; start < size; start += 2 * half) {
      for (int64_t i = start; i < start + half; i += step) {
        if (step == 1) {
          const float a = values[i];
          const float b = values[i + half];
          values[i] = a + b;
          values[i + half] = a - b;
          continue;
        }
        const V a = hn::LoadU(f, values + i);
        const V b = hn::LoadU(f, values + i + half);
        hn::StoreU(hn::Add(a, b), f, values + i);
        hn::StoreU(hn::Sub(a, b), f, values + i + half);
      }
    }
  }
}

// kCount vectors of every row from `in` on.
template <int kCount>
HWY_ATTR HWY_INLINE void MixColumns(const float* matrix, int64_t order,
                                    const float* in, int64_t width,
                                    float* out) {
  const F f;
  for (int64_t j = 0; j < order; ++j) {
    V sum[kCount];
    for (int k = 0; k < kCount; ++k) sum[k] = hn::Zero(f);
    for (int64_t i = 0; i < order; ++i) {
      const V factor = hn::Set(f, matrix[j * order + i]);
      for (int k = 0; k < kCount; ++k) {
        const V x = hn::LoadU(f, in + i * width + k * kLanes);
        sum[k] = hn::MulAdd(factor, x, sum[k]);
      }
    }
    for (int k = 0; k < kCount; ++k) {
      hn::StoreU(sum[k], f, out + j * width + k * kLanes);
    }
  }
}

HWY_ATTR void Mix(const float* matrix, int64_t order, const float* in,
                  int64_t width, float* out) {
  int64_t c = 0;
  for (; c + kSums * kLanes <= width; c += kSums * kLanes) {
    MixColumns<kSums>(matrix, order, in + c, width, out + c);
  }
  for (; c + kLanes <= width; c += kLanes) {
    MixColumns<1>(matrix, order, in + c, width, out + c);
  }
  for (; c < width; ++c) {
    for (int64_t j = 0; j < order; ++j) {
      float sum = 0;
      for (int64_t i = 0; i < order; ++i) {
        sum += matrix[j * order + i] * in[i * width + c];
      }
      out[j * width + c] = sum;
    }
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd::kernels {

HWY_EXPORT(Walsh);
HWY_EXPORT(Mix);

void WalshHadamard(float* values, int64_t size) {
  HWY_DYNAMIC_DISPATCH(Walsh)(values, size);
}

void MixRows(const float* matrix, int64_t order, const float* in, int64_t width,
             float* out) {
  HWY_DYNAMIC_DISPATCH(Mix)(matrix, order, in, width, out);
}

}  // namespace quantd::kernels
#endif  // HWY_ONCE
