// SPDX-License-Identifier: Apache-2.0
#include "worker/kernels/row_ranges_cpu.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "worker/kernels/integer_grid.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/kernels/row_ranges_cpu.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quantd::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// Not wider: sums by lanes then have the same order on every machine that has
// eight.
using F = hn::CappedTag<float, 8>;
using I = hn::RebindToSigned<F>;
using V = hn::Vec<F>;

// By the bits of |x|, among which those of infinities and NaN are the largest.
HWY_ATTR void Magnitudes(const Rows& rows, float* largest) {
  const F f;
  const I i32;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  for (int64_t r = 0; r < rows.rows; ++r) {
    const float* x = rows.values + r * rows.columns;
    auto first = hn::Zero(i32);
    auto second = hn::Zero(i32);
    int64_t i = 0;
    for (; i + 2 * lanes <= rows.columns; i += 2 * lanes) {
      const V low = hn::Abs(hn::LoadU(f, x + i));
      const V high = hn::Abs(hn::LoadU(f, x + i + lanes));
      first = hn::Max(first, hn::BitCast(i32, low));
      second = hn::Max(second, hn::BitCast(i32, high));
    }
    int32_t most = hn::GetLane(hn::MaxOfLanes(i32, hn::Max(first, second)));
    for (; i < rows.columns; ++i) {
      const float size = std::fabs(x[i]);
      int32_t bits;
      memcpy(&bits, &size, sizeof(bits));
      most = std::max(most, bits);
    }
    memcpy(largest + r, &most, sizeof(most));
  }
}

HWY_ATTR void Ranges(const Rows& rows, float* low, float* high) {
  const F f;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  for (int64_t r = 0; r < rows.rows; ++r) {
    const float* x = rows.values + r * rows.columns;
    float least = x[0];
    float most = x[0];
    int64_t i = 0;
    if (rows.columns >= lanes) {
      V least_lanes = hn::LoadU(f, x);
      V most_lanes = least_lanes;
      for (i = lanes; i + lanes <= rows.columns; i += lanes) {
        const V v = hn::LoadU(f, x + i);
        least_lanes = hn::Min(least_lanes, v);
        most_lanes = hn::Max(most_lanes, v);
      }
      least = hn::GetLane(hn::MinOfLanes(f, least_lanes));
      most = hn::GetLane(hn::MaxOfLanes(f, most_lanes));
    }
    for (; i < rows.columns; ++i) {
      least = std::min(least, x[i]);
      most = std::max(most, x[i]);
    }
    low[r] = least;
    high[r] = most;
  }
}

HWY_ATTR HWY_INLINE V CodeOf(V value, V scale, V zero, V max_code) {
  const F f;
  const V code = hn::Add(hn::Round(hn::Div(value, scale)), zero);
  return hn::Min(hn::Max(code, hn::Zero(f)), max_code);
}

HWY_ATTR void RoundRows(const Rows& rows, const float* scales,
                        const float* zeros, int32_t max_code, uint8_t* codes) {
  const F f;
  const hn::Rebind<int32_t, F> i32;
  const hn::Rebind<uint8_t, F> u8;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  const V largest = hn::Set(f, static_cast<float>(max_code));
  for (int64_t r = 0; r < rows.rows; ++r) {
    const float* x = rows.values + r * rows.columns;
    uint8_t* to = codes + r * rows.columns;
    const V scale = hn::Set(f, scales[r]);
    const V zero = hn::Set(f, zeros[r]);
    int64_t i = 0;
    for (; i + lanes <= rows.columns; i += lanes) {
      const V code = CodeOf(hn::LoadU(f, x + i), scale, zero, largest);
      hn::StoreU(hn::DemoteTo(u8, hn::ConvertTo(i32, code)), u8, to + i);
    }
    const IntegerGrid grid = {scales[r], zeros[r]};
    for (; i < rows.columns; ++i) {
      to[i] = static_cast<uint8_t>(NearestCode(x[i], grid, max_code));
    }
  }
}

// a[0] + x (a[1] + x (a[2] + ...)).
template <size_t kTerms>
HWY_ATTR HWY_INLINE V Polynomial(V x, const float (&a)[kTerms]) {
  const F f;
  V sum = hn::Set(f, a[kTerms - 1]);
  for (size_t i = kTerms - 1; i > 0; --i) {
    sum = hn::MulAdd(sum, x, hn::Set(f, a[i - 1]));
  }
  return sum;
}

// x^norm for x >= 0, by 2^(norm log2 x), to six digits: what a sum of errors is
// compared for needs no more, and it is most of the work. The polynomials of
// Moshier's Cephes library for float32.
HWY_ATTR HWY_INLINE V Power(V x, V norm) {
  constexpr float kLog[] = {
      3.3333331174e-1f,  -2.4999993993e-1f, 2.0000714765e-1f,
      -1.6668057665e-1f, 1.4249322787e-1f,  -1.2420140846e-1f,
      1.1676998740e-1f,  -1.1514610310e-1f, 7.0376836292e-2f};
  constexpr float kExp[] = {1.0f,
                            6.931472028550421e-1f,
                            2.402264791363012e-1f,
                            5.550332471162809e-2f,
                            9.618437357674640e-3f,
                            1.339887440266574e-3f,
                            1.535336188319500e-4f};
  constexpr int32_t kRootOfHalf = 0x3f3504f3;
  constexpr float kLog2E = 1.44269504f;
  const F f;
  const I i32;
  // x = 2^e (1 + t), 1 + t between the roots of 1/2 and 2.
  const auto bits = hn::BitCast(i32, x);
  const auto e = hn::ShiftRight<23>(hn::Sub(bits, hn::Set(i32, kRootOfHalf)));
  const V t = hn::Sub(hn::BitCast(f, hn::Sub(bits, hn::ShiftLeft<23>(e))),
                      hn::Set(f, 1.0f));
  const V square = hn::Mul(t, t);
  const V tail = hn::Mul(hn::Mul(t, square), Polynomial(t, kLog));
  const V log = hn::Add(t, hn::NegMulAdd(hn::Set(f, 0.5f), square, tail));
  const V log2 = hn::MulAdd(log, hn::Set(f, kLog2E), hn::ConvertTo(f, e));
  // No further than float32 goes.
  const V wanted = hn::Min(hn::Max(hn::Mul(norm, log2), hn::Set(f, -126.0f)),
                           hn::Set(f, 127.0f));
  const V whole = hn::Round(wanted);
  const V power = Polynomial(hn::Sub(wanted, whole), kExp);
  const auto steps = hn::ShiftLeft<23>(hn::ConvertTo(i32, whole));
  const V result = hn::BitCast(f, hn::Add(hn::BitCast(i32, power), steps));
  constexpr float kLeastNormal = 1.1754943508222875e-38f;
  return hn::IfThenElseZero(hn::Ge(x, hn::Set(f, kLeastNormal)), result);
}

// A grid and how it is judged, in vectors.
struct Judge {
  V scale;
  V zero;
  V max_code;
  V norm;
};

HWY_ATTR HWY_INLINE V ErrorOf(V value, V importance, const Judge& judge) {
  const V code = CodeOf(value, judge.scale, judge.zero, judge.max_code);
  const V rounded = hn::Mul(hn::Sub(code, judge.zero), judge.scale);
  return hn::Mul(Power(hn::Abs(hn::Sub(rounded, value)), judge.norm),
                 importance);
}

// Values between two looks at whether the sum is already too large.
constexpr int64_t kStretch = 32;

// Sum over the values, or something not below `enough`.
HWY_ATTR double ErrorSum(const float* values, const float* importance,
                         int64_t count, const Judge& judge, double enough) {
  const F f;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  double sum = 0;
  for (int64_t begin = 0; begin < count && sum < enough; begin += kStretch) {
    V part = hn::Zero(f);
    for (int64_t i = begin; i < begin + kStretch; i += lanes) {
      part = hn::Add(part, ErrorOf(hn::LoadU(f, values + i),
                                   hn::LoadU(f, importance + i), judge));
    }
    sum += double{hn::GetLane(hn::SumOfLanes(f, part))};
  }
  return sum;
}

// The values of a row and what they count, in whole stretches; what is added
// counts nothing. The largest come first, so that a range that cuts too much
// off is found out soon.
class Stretches {
 public:
  Stretches(const float* values, int64_t count, const float* importance) {
    std::vector<Weighed> all(count);
    for (int64_t i = 0; i < count; ++i) {
      all[i] = {values[i], importance == nullptr ? 1.0f : importance[i]};
    }
    if (count > kStretch) {
      std::nth_element(all.begin(), all.begin() + kStretch, all.end(),
                       [](const Weighed& a, const Weighed& b) {
                         return std::fabs(a.value) > std::fabs(b.value);
                       });
    }
    size_ = (count + kStretch - 1) / kStretch * kStretch;
    numbers_.resize(2 * size_);
    for (int64_t i = 0; i < count; ++i) {
      numbers_[i] = all[i].value;
      numbers_[size_ + i] = all[i].counts;
    }
  }
  int64_t size() const { return size_; }
  const float* values() const { return numbers_.data(); }
  const float* importance() const { return numbers_.data() + size_; }

 private:
  struct Weighed {
    float value = 0;
    float counts = 0;
  };

  int64_t size_ = 0;
  std::vector<float> numbers_;
};

HWY_ATTR int64_t LeastError(const float* values, int64_t count,
                            const GridChoice& choice) {
  const F f;
  const Stretches row(values, count, choice.importance);
  int64_t best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (size_t k = 0; k < choice.scales.size(); ++k) {
    const Judge judge = {hn::Set(f, choice.scales[k]),
                         hn::Set(f, choice.zeros[k]),
                         hn::Set(f, static_cast<float>(choice.max_code)),
                         hn::Set(f, choice.norm)};
    const double error =
        ErrorSum(row.values(), row.importance(), row.size(), judge, least);
    if (error < least) {
      least = error;
      best = static_cast<int64_t>(k);
    }
  }
  return best;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd::kernels {

HWY_EXPORT(Magnitudes);
HWY_EXPORT(Ranges);
HWY_EXPORT(RoundRows);
HWY_EXPORT(LeastError);

void RowMagnitudes(const Rows& rows, float* largest) {
  HWY_DYNAMIC_DISPATCH(Magnitudes)(rows, largest);
}

void RowRanges(const Rows& rows, float* low, float* high) {
  HWY_DYNAMIC_DISPATCH(Ranges)(rows, low, high);
}

void RoundToGrids(const Rows& rows, const float* scales, const float* zeros,
                  int32_t max_code, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(RoundRows)(rows, scales, zeros, max_code, codes);
}

int64_t LeastErrorGrid(const float* values, int64_t count,
                       const GridChoice& choice) {
  return HWY_DYNAMIC_DISPATCH(LeastError)(values, count, choice);
}

}  // namespace quantd::kernels
#endif  // HWY_ONCE
