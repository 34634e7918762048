// SPDX-License-Identifier: Apache-2.0
#include "worker/kernels/zero_points_cpu.h"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/kernels/zero_points_cpu.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h: it is compiled once per target as well.
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantd::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// Not wider: sums by lanes then have the same order on every machine that has
// eight.
using F = hn::CappedTag<float, 8>;
using V = hn::Vec<F>;

// The first n of a vector's values, zeros behind them.
HWY_ATTR HWY_INLINE V LoadSome(const float* from, int64_t n) {
  float values[8] = {};
  std::copy(from, from + n, values);
  return hn::LoadU(F(), values);
}

struct Grid {
  float scale = 1;
  float inverse = 1;
  float zero = 0;
};

// Min-max with the published guards: a range below 1e-4 gets the inverse scale
// 1, and none is above 2e4.
Grid MinMax(float low, float high, const ZeroPointRule& rule) {
  const float range = high - low;
  Grid grid;
  // A product with the reciprocal, as the published code has it.
  if (range > 1e-4f) grid.inverse = 1.0f / range * rule.max_code;
  grid.inverse = std::min(grid.inverse, 2e4f);
  grid.scale = 1.0f / grid.inverse;
  if (rule.scale_type != ScaleType::kFloat32) {
    grid.scale = RoundScale(grid.scale, rule.scale_type);
    grid.inverse = 1.0f / grid.scale;
  }
  grid.zero = -low * grid.inverse;
  if (rule.round_first) grid.zero = nearbyintf(grid.zero);
  return grid;
}

HWY_ATTR Grid GridOf(const float* w, int64_t size, const ZeroPointRule& rule) {
  const F f;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  float low = w[0];
  float high = w[0];
  int64_t i = 0;
  if (size >= lanes) {
    V least = hn::LoadU(f, w);
    V most = least;
    for (i = lanes; i + lanes <= size; i += lanes) {
      const V v = hn::LoadU(f, w + i);
      least = hn::Min(least, v);
      most = hn::Max(most, v);
    }
    low = hn::GetLane(hn::MinOfLanes(f, least));
    high = hn::GetLane(hn::MaxOfLanes(f, most));
  }
  for (; i < size; ++i) {
    low = std::min(low, w[i]);
    high = std::max(high, w[i]);
  }
  return MinMax(low, high, rule);
}

struct Step {
  float beta = 0;
  float untouched = 0;
  float exponent = 0;  // p - 1
};

// sign(x) max(|x| - |x|^(p-1) / beta, 0): the proximal operator of |x|^p.
HWY_ATTR HWY_INLINE V Shrink(V x, V size, const Step& step) {
  const F f;
  const V power =
      hn::Exp(f, hn::Mul(hn::Set(f, step.exponent), hn::Log(f, size)));
  const V left = hn::Max(
      hn::Sub(size, hn::Mul(power, hn::Set(f, 1.0f / step.beta))), hn::Zero(f));
  // Small ones have no logarithm to speak of.
  const auto touched = hn::Gt(size, hn::Set(f, step.untouched));
  return hn::CopySign(hn::IfThenElseZero(touched, left), x);
}

// Sums over the lanes that `mask` leaves: of |w - w^|, and of what the next
// zero point is the mean of.
struct Sums {
  V error;
  V zero;
};
HWY_ATTR HWY_INLINE void Add(V w, const Grid& grid, float max_code,
                             const Step& step, hn::Mask<F> mask, Sums* sums) {
  const F f;
  const V zero = hn::Set(f, grid.zero);
  const V units = hn::Mul(w, hn::Set(f, grid.inverse));
  const V code = hn::Min(hn::Max(hn::Round(hn::Add(units, zero)), hn::Zero(f)),
                         hn::Set(f, max_code));
  const V miss =
      hn::Sub(w, hn::Mul(hn::Sub(code, zero), hn::Set(f, grid.scale)));
  const V size = hn::IfThenElseZero(mask, hn::Abs(miss));
  V kept = units;
  if (!hn::AllFalse(f, hn::Gt(size, hn::Set(f, step.untouched)))) {
    kept =
        hn::Mul(hn::Sub(w, Shrink(miss, size, step)), hn::Set(f, grid.inverse));
  }
  sums->error = hn::Add(sums->error, size);
  sums->zero =
      hn::Add(sums->zero, hn::IfThenElseZero(mask, hn::Sub(code, kept)));
}

struct Outcome {
  float error = 0;
  float zero = 0;
};
HWY_ATTR HWY_INLINE Outcome Advance(const float* w, int64_t size,
                                    const Grid& grid, float max_code,
                                    const Step& step) {
  const F f;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  Sums sums = {hn::Zero(f), hn::Zero(f)};
  const auto all = hn::FirstN(f, hn::Lanes(f));
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    Add(hn::LoadU(f, w + i), grid, max_code, step, all, &sums);
  }
  if (i < size) {
    const int64_t rest = size - i;
    Add(LoadSome(w + i, rest), grid, max_code, step,
        hn::FirstN(f, static_cast<size_t>(rest)), &sums);
  }
  return {hn::GetLane(hn::SumOfLanes(f, sums.error)),
          hn::GetLane(hn::SumOfLanes(f, sums.zero)) / static_cast<float>(size)};
}

HWY_ATTR Grid SolveGroup(const float* w, int64_t size,
                         const ZeroPointRule& rule) {
  Grid grid = GridOf(w, size, rule);
  float best = std::numeric_limits<float>::infinity();
  float chosen = grid.zero;
  const size_t steps = rule.betas.size();
  // One turn more, to judge what the last step found.
  for (size_t i = 0; i <= steps; ++i) {
    const size_t k = std::min(i, steps - 1);
    const Step step = {rule.betas[k], rule.untouched[k], rule.exponent - 1};
    const Outcome now = Advance(w, size, grid, rule.max_code, step);
    if (now.error < best) {
      best = now.error;
      chosen = grid.zero;
    }
    // It would stay there.
    if (rule.steady && now.zero == grid.zero) break;
    grid.zero = now.zero;
  }
  grid.zero = chosen;
  return grid;
}

HWY_ATTR void Solve(const ZeroPointGroups& all, const ZeroPointRule& rule) {
  for (int64_t g = 0; g < all.groups; ++g) {
    const float* w = all.weight + g * all.size;
    const Grid grid = rule.betas.empty() ? GridOf(w, all.size, rule)
                                         : SolveGroup(w, all.size, rule);
    all.scales[g] = grid.scale;
    all.inverses[g] = grid.inverse;
    all.zeros[g] = grid.zero;
  }
}

// One vector of codes.
HWY_ATTR HWY_INLINE void RoundVector(V w, V inverse, V zero, V max_code,
                                     uint8_t* to) {
  const F f;
  const hn::Rebind<int32_t, F> i32;
  const hn::Rebind<uint8_t, F> u8;
  const V code = hn::Round(hn::Add(hn::Mul(w, inverse), zero));
  const V cut = hn::Min(hn::Max(code, hn::Zero(f)), max_code);
  hn::StoreU(hn::DemoteTo(u8, hn::ConvertTo(i32, cut)), u8, to);
}

HWY_ATTR void RoundTo(const ZeroPointGroups& all, float max_code,
                      uint8_t* codes) {
  const F f;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  const V largest = hn::Set(f, max_code);
  for (int64_t g = 0; g < all.groups; ++g) {
    const float* w = all.weight + g * all.size;
    uint8_t* to = codes + g * all.size;
    const V inverse = hn::Set(f, all.inverses[g]);
    const V zero = hn::Set(f, all.zeros[g]);
    int64_t i = 0;
    for (; i + lanes <= all.size; i += lanes) {
      RoundVector(hn::LoadU(f, w + i), inverse, zero, largest, to + i);
    }
    if (i == all.size) continue;
    uint8_t tail[8];
    RoundVector(LoadSome(w + i, all.size - i), inverse, zero, largest, tail);
    std::copy(tail, tail + (all.size - i), to + i);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd::kernels {

HWY_EXPORT(Solve);
HWY_EXPORT(RoundTo);

void SetSteps(int64_t steps, double beta, double kappa, ZeroPointRule* rule) {
  rule->steady = kappa == 1;
  for (int64_t i = 0; i < steps; ++i) {
    rule->betas.push_back(static_cast<float>(beta));
    // |x|^(2-p) <= 1 / beta, less a margin for rounding.
    const double bound = std::pow(beta, -1.0 / (2.0 - double{rule->exponent}));
    rule->untouched.push_back(static_cast<float>(0.999 * bound));
    beta *= kappa;
  }
}

void SolveZeroPoints(const ZeroPointGroups& all, const ZeroPointRule& rule) {
  HWY_DYNAMIC_DISPATCH(Solve)(all, rule);
}

void RoundToZeroPoints(const ZeroPointGroups& all, float max_code,
                       uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(RoundTo)(all, max_code, codes);
}

}  // namespace quantd::kernels
#endif  // HWY_ONCE
