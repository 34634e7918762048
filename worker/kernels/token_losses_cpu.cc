// SPDX-License-Identifier: Apache-2.0
#include "worker/kernels/token_losses_cpu.h"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/kernels/token_losses_cpu.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h: it is compiled once per target as well.
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantd::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using F = hn::CappedTag<float, 16>;
using V = hn::Vec<F>;

// The largest value; NaN where one is not finite.
HWY_ATTR float Largest(const float* x, int64_t n) {
  const F f;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  V most = hn::Set(f, -std::numeric_limits<float>::infinity());
  V taint = hn::Zero(f);
  float tail = -std::numeric_limits<float>::infinity();
  float tail_taint = 0;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const V v = hn::LoadU(f, x + i);
    most = hn::Max(most, v);
    // 0 for finite values, NaN for all others, and NaN stays.
    taint = hn::MulAdd(v, hn::Zero(f), taint);
  }
  for (; i < n; ++i) {
    tail = std::max(tail, x[i]);
    tail_taint += x[i] * 0.0f;
  }
  const float result = std::max(tail, hn::GetLane(hn::MaxOfLanes(f, most)));
  return result + tail_taint + hn::GetLane(hn::SumOfLanes(f, taint));
}

// sum exp(x - most). Nothing overflows, and a sum of 10^5 terms keeps its
// digits in float64.
HWY_ATTR double ExpSum(const float* x, int64_t n, float most) {
  const F f;
  const hn::CappedTag<double, 8> d;
  const hn::Rebind<float, decltype(d)> part;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  const int64_t step = static_cast<int64_t>(hn::Lanes(d));
  const V shift = hn::Set(f, most);
  auto total = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    float terms[16];
    hn::StoreU(hn::Exp(f, hn::Sub(hn::LoadU(f, x + i), shift)), f, terms);
    for (int64_t k = 0; k < lanes; k += step) {
      total = hn::Add(total, hn::PromoteTo(d, hn::LoadU(part, terms + k)));
    }
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, total));
  for (; i < n; ++i) sum += std::exp(x[i] - most);
  return sum;
}

HWY_ATTR TokenLoss Loss(const float* logits, int64_t n, int64_t target) {
  TokenLoss result;
  const float most = Largest(logits, n);
  if (std::isnan(most)) {
    result.loss = most;
    return result;
  }
  result.best = std::find(logits, logits + n, most) - logits;
  result.loss = std::log(ExpSum(logits, n, most)) -
                (double{logits[target]} - double{most});
  return result;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd::kernels {

HWY_EXPORT(Loss);

TokenLoss LossOfToken(const float* logits, int64_t n, int64_t target) {
  return HWY_DYNAMIC_DISPATCH(Loss)(logits, n, target);
}

}  // namespace quantd::kernels
#endif  // HWY_ONCE
