// SPDX-License-Identifier: Apache-2.0
#include "worker/kernels/learned_rounding_cpu.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/kernels/learned_rounding_cpu.cc"
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

constexpr int64_t kMostLanes = 8;

// Whole vectors.
struct Whole {
  static HWY_ATTR HWY_INLINE V Load(const float* from, int64_t) {
    return hn::LoadU(F(), from);
  }
  static HWY_ATTR HWY_INLINE void Store(V v, float* to, int64_t) {
    hn::StoreU(v, F(), to);
  }
};

// The first n lanes; zeros are read behind them, and nothing is written there.
struct Some {
  static HWY_ATTR HWY_INLINE V Load(const float* from, int64_t n) {
    float lanes[kMostLanes] = {};
    std::copy(from, from + n, lanes);
    return hn::LoadU(F(), lanes);
  }
  static HWY_ATTR HWY_INLINE void Store(V v, float* to, int64_t n) {
    float lanes[kMostLanes];
    hn::StoreU(v, F(), lanes);
    std::copy(lanes, lanes + n, to);
  }
};

struct Grid {
  V scale;
  V zero;
  V max_code;
};

// Op::BeginGroup(group), Op::Vector for all weights of it, Op::EndGroup(group).
template <class Op>
HWY_ATTR HWY_INLINE void ForGroups(const GroupedRows& grids, Op& op) {
  const F f;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  const int64_t groups = grids.groups();
  const V max_code = hn::Set(f, grids.max_code);
  for (int64_t r = 0; r < grids.rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t group = r * groups + g;
      const Grid grid = {hn::Set(f, grids.scales[group]),
                         hn::Set(f, grids.zeros[group]), max_code};
      const int64_t row = r * grids.columns;
      int64_t i = row + g * grids.group_size;
      const int64_t end = std::min(i + grids.group_size, row + grids.columns);
      op.BeginGroup(group);
      for (; i + lanes <= end; i += lanes) {
        op.template Vector<Whole>(grid, i, lanes);
      }
      if (i < end) op.template Vector<Some>(grid, i, end - i);
      op.EndGroup(group);
    }
  }
}

// A weight on its grid.
struct Placed {
  V units;  // weight / scale
  V code;   // Not cut.
  V level;  // The code, cut, less the zero point.
};
HWY_ATTR HWY_INLINE Placed Place(V weight, V offset, const Grid& grid) {
  const F f;
  const V units = hn::Div(weight, grid.scale);
  const V code = hn::Add(hn::Round(hn::Add(units, offset)), grid.zero);
  const V cut = hn::Min(hn::Max(code, hn::Zero(f)), grid.max_code);
  return {units, code, hn::Sub(cut, grid.zero)};
}

struct SignedOutput {
  const SignedState& state;
  float* out;

  HWY_ATTR HWY_INLINE void BeginGroup(int64_t) {}
  HWY_ATTR HWY_INLINE void EndGroup(int64_t) {}
  template <class Access>
  HWY_ATTR HWY_INLINE void Vector(const Grid& grid, int64_t i, int64_t n) {
    const Placed placed = Place(Access::Load(state.weight + i, n),
                                Access::Load(state.offset + i, n), grid);
    Access::Store(hn::Mul(placed.level, grid.scale), out + i, n);
  }
};

class SignedMove {
 public:
  HWY_ATTR SignedMove(const SignedState& state, const SignedStep& step)
      : state_(state), step_(step), size_(hn::Set(F(), step.size)) {}

  HWY_ATTR HWY_INLINE void BeginGroup(int64_t group) {
    const F f;
    end_ = hn::Set(f, step_.ends == nullptr ? 0.0f : step_.ends[group]);
    by_scale_ = hn::Zero(f);
    cut_ = hn::Zero(f);
  }
  HWY_ATTR HWY_INLINE void EndGroup(int64_t group) {
    const F f;
    step_.by_scale[group] = hn::GetLane(hn::SumOfLanes(f, by_scale_));
    step_.cut[group] = hn::GetLane(hn::SumOfLanes(f, cut_));
  }
  // Inside the grid an offset's gradient is scale times the weight's, of which
  // the sign counts; a weight that was cut moves with the end of the range.
  template <class Access>
  HWY_ATTR HWY_INLINE void Vector(const Grid& grid, int64_t i, int64_t n) {
    const F f;
    const V zero = hn::Zero(f);
    const V offset = Access::Load(state_.offset + i, n);
    const V gradient = Access::Load(step_.gradient + i, n);
    const Placed placed =
        Place(Access::Load(state_.weight + i, n), offset, grid);
    const auto inside =
        hn::And(hn::Ge(placed.code, zero), hn::Le(placed.code, grid.max_code));
    const V by_scale =
        hn::Sub(placed.level, hn::IfThenElse(inside, placed.units, end_));
    by_scale_ = hn::Add(by_scale_, hn::Mul(by_scale, gradient));
    cut_ = hn::Add(cut_, hn::IfThenZeroElse(inside, gradient));
    const V by_offset =
        hn::IfThenElseZero(inside, hn::Mul(gradient, grid.scale));
    const V up = hn::IfThenElseZero(hn::Lt(by_offset, zero), size_);
    const V down = hn::IfThenElseZero(hn::Gt(by_offset, zero), size_);
    Access::Store(hn::Sub(hn::Add(offset, up), down), step_.offset + i, n);
  }

 private:
  const SignedState& state_;
  const SignedStep& step_;
  const V size_;
  V end_ = hn::Zero(F());
  V by_scale_ = hn::Zero(F());
  V cut_ = hn::Zero(F());
};

HWY_ATTR HWY_INLINE V Sigmoid(V v) {
  const F f;
  const V one = hn::Set(f, 1.0f);
  // No further than the exponential goes.
  const V power = hn::Min(hn::Neg(v), hn::Set(f, 80.0f));
  return hn::Div(one, hn::Add(one, hn::Exp(f, power)));
}

HWY_ATTR HWY_INLINE V ShareOf(V sigmoid, const SoftStep& step) {
  const F f;
  const V stretched = hn::Sub(hn::Mul(sigmoid, hn::Set(f, step.stretch)),
                              hn::Set(f, step.margin));
  return hn::Min(hn::Max(stretched, hn::Zero(f)), hn::Set(f, 1.0f));
}

struct SoftOutput {
  const SoftState& state;
  const SoftStep& step;
  float* out;

  HWY_ATTR HWY_INLINE void BeginGroup(int64_t) {}
  HWY_ATTR HWY_INLINE void EndGroup(int64_t) {}
  template <class Access>
  HWY_ATTR HWY_INLINE void Vector(const Grid& grid, int64_t i, int64_t n) {
    const F f;
    const V share = ShareOf(Sigmoid(Access::Load(state.v + i, n)), step);
    const V code = hn::Add(Access::Load(state.below + i, n), share);
    const V cut = hn::Min(hn::Max(code, hn::Zero(f)), grid.max_code);
    Access::Store(hn::Mul(hn::Sub(cut, grid.zero), grid.scale), out + i, n);
  }
};

// |x|^power sign(x); 0 for 0.
HWY_ATTR HWY_INLINE V SignedPower(V x, V power) {
  const F f;
  const V size = hn::Abs(x);
  const auto some = hn::Gt(size, hn::Zero(f));
  const V base = hn::IfThenElse(some, size, hn::Set(f, 1.0f));
  const V result = hn::Exp(f, hn::Mul(power, hn::Log(f, base)));
  return hn::CopySign(hn::IfThenElseZero(some, result), x);
}

struct SoftMove {
  const SoftState& state;
  const SoftStep& step;
  const float* gradient;

  HWY_ATTR HWY_INLINE void BeginGroup(int64_t) {}
  HWY_ATTR HWY_INLINE void EndGroup(int64_t) {}

  // The objective's gradient by v.
  HWY_ATTR HWY_INLINE V Slope(V v, V below, V by_weight,
                              const Grid& grid) const {
    const F f;
    const V zero = hn::Zero(f);
    const V one = hn::Set(f, 1.0f);
    const V sigmoid = Sigmoid(v);
    const V share = ShareOf(sigmoid, step);
    const V code = hn::Add(below, share);
    const auto inside =
        hn::And(hn::Ge(code, zero), hn::Le(code, grid.max_code));
    V by_share = hn::IfThenElseZero(
        inside,
        hn::Mul(hn::Mul(by_weight, grid.scale), hn::Set(f, step.loss_factor)));
    if (step.penalty_factor != 0) {
      const V distance = hn::Sub(hn::Add(share, share), one);
      by_share =
          hn::Add(by_share,
                  hn::Mul(SignedPower(distance, hn::Set(f, step.penalty_power)),
                          hn::Set(f, step.penalty_factor)));
    }
    const auto free = hn::And(hn::Gt(share, zero), hn::Lt(share, one));
    const V slope =
        hn::IfThenElseZero(free, hn::Mul(sigmoid, hn::Sub(one, sigmoid)));
    return hn::Mul(hn::Mul(by_share, slope), hn::Set(f, step.stretch));
  }

  template <class Access>
  HWY_ATTR HWY_INLINE void Vector(const Grid& grid, int64_t i, int64_t n) {
    const F f;
    const V v = Access::Load(state.v + i, n);
    const V g = Slope(v, Access::Load(state.below + i, n),
                      Access::Load(gradient + i, n), grid);
    const V mean = hn::Add(
        hn::Mul(Access::Load(state.mean + i, n), hn::Set(f, step.decay1)),
        hn::Mul(g, hn::Set(f, 1 - step.decay1)));
    const V square = hn::Add(
        hn::Mul(Access::Load(state.square + i, n), hn::Set(f, step.decay2)),
        hn::Mul(hn::Mul(g, g), hn::Set(f, 1 - step.decay2)));
    const V size = hn::Add(hn::Sqrt(hn::Div(square, hn::Set(f, step.unbias2))),
                           hn::Set(f, step.epsilon));
    Access::Store(mean, state.mean + i, n);
    Access::Store(square, state.square + i, n);
    Access::Store(
        hn::Sub(v, hn::Mul(hn::Set(f, step.size), hn::Div(mean, size))),
        state.v + i, n);
  }
};

HWY_ATTR void WriteSigned(const GroupedRows& grids, const SignedState& state,
                          float* out) {
  SignedOutput op{state, out};
  ForGroups(grids, op);
}

HWY_ATTR void MoveSigned(const GroupedRows& grids, const SignedState& state,
                         const SignedStep& step) {
  SignedMove op(state, step);
  ForGroups(grids, op);
}

HWY_ATTR void WriteSoft(const GroupedRows& grids, const SoftState& state,
                        const SoftStep& step, float* out) {
  SoftOutput op{state, step, out};
  ForGroups(grids, op);
}

HWY_ATTR void MoveSoft(const GroupedRows& grids, const SoftState& state,
                       const SoftStep& step, const float* gradient) {
  SoftMove op{state, step, gradient};
  ForGroups(grids, op);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd::kernels {

HWY_EXPORT(WriteSigned);
HWY_EXPORT(MoveSigned);
HWY_EXPORT(WriteSoft);
HWY_EXPORT(MoveSoft);

void SignedWeights(const GroupedRows& grids, const SignedState& state,
                   float* out) {
  HWY_DYNAMIC_DISPATCH(WriteSigned)(grids, state, out);
}

void StepSigned(const GroupedRows& grids, const SignedState& state,
                const SignedStep& step) {
  HWY_DYNAMIC_DISPATCH(MoveSigned)(grids, state, step);
}

void SoftWeights(const GroupedRows& grids, const SoftState& state,
                 const SoftStep& step, float* out) {
  HWY_DYNAMIC_DISPATCH(WriteSoft)(grids, state, step, out);
}

void StepSoft(const GroupedRows& grids, const SoftState& state,
              const SoftStep& step, const float* gradient) {
  HWY_DYNAMIC_DISPATCH(MoveSoft)(grids, state, step, gradient);
}

}  // namespace quantd::kernels
#endif  // HWY_ONCE
