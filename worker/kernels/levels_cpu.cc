// SPDX-License-Identifier: Apache-2.0
// NearestLevel's binary search, one vector at a time: every lane takes as many
// steps as the table is deep, and none branches.
#include "worker/kernels/levels_cpu.h"

#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/kernels/levels_cpu.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quantd::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using F = hn::CappedTag<float, 16>;
using I = hn::RebindToSigned<F>;

constexpr int kTable = 256;

// The table as gathers want it: keys behind the last are above every value.
struct Table {
  explicit Table(const LevelGridRule& rule) {
    std::fill(keys, keys + kTable, std::numeric_limits<int32_t>::max());
    std::copy(rule.keys, rule.keys + rule.size, keys);
    std::copy(rule.codes, rule.codes + rule.size, codes);
    while (2 * first_step < rule.size) first_step *= 2;
  }
  int32_t keys[kTable];
  int32_t codes[kTable] = {};
  int32_t first_step = 1;  // Half the table, as a power of two.
};

// OrderedKey of every lane.
HWY_ATTR HWY_INLINE hn::Vec<I> Keys(hn::Vec<F> values) {
  const I i;
  const hn::Vec<I> bits = hn::BitCast(i, values);
  const hn::Vec<I> flip =
      hn::And(hn::BroadcastSignBit(bits), hn::Set(i, 0x7fffffff));
  return hn::Xor(bits, flip);
}

HWY_ATTR HWY_INLINE hn::Vec<I> Codes(hn::Vec<I> keys, const Table& table) {
  const I i;
  hn::Vec<I> place = hn::Zero(i);
  for (int32_t step = table.first_step; step > 0; step /= 2) {
    const hn::Vec<I> probe = hn::Add(place, hn::Set(i, step));
    const auto below = hn::Lt(keys, hn::GatherIndex(i, table.keys, probe));
    place = hn::IfThenElse(below, place, probe);
  }
  return hn::GatherIndex(i, table.codes, place);
}

HWY_ATTR void Round(const float* values, int64_t count, float scale,
                    const LevelGridRule& rule, uint8_t* codes) {
  const F f;
  const hn::Rebind<uint8_t, F> u8;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  int64_t done = 0;
  // A scale of 0 is the scalar loop's business.
  if (scale != 0 && count >= lanes) {
    const Table table(rule);
    const hn::Vec<F> unit = hn::Set(f, rule.reciprocal ? 1.0f / scale : scale);
    for (; done + lanes <= count; done += lanes) {
      const hn::Vec<F> value = hn::LoadU(f, values + done);
      const hn::Vec<F> scaled =
          rule.reciprocal ? hn::Mul(value, unit) : hn::Div(value, unit);
      hn::StoreU(hn::DemoteTo(u8, Codes(Keys(scaled), table)), u8,
                 codes + done);
    }
  }
  for (; done < count; ++done) {
    codes[done] = NearestLevel(InUnits(values[done], scale, rule), rule);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd::kernels {

HWY_EXPORT(Round);

void RoundToLevels(const float* values, int64_t count, float scale,
                   const LevelGridRule& rule, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(Round)(values, count, scale, rule, codes);
}

}  // namespace quantd::kernels
#endif  // HWY_ONCE
