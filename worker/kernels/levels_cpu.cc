// SPDX-License-Identifier: Apache-2.0
// NearestLevel, one vector at a time: every lane takes as many steps as the
// table is deep, and none branches.
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

// Few levels: as many comparisons, which is less than a chain of gathers.
constexpr int32_t kFew = 16;

// How many of keys[1 ..] a key reaches.
HWY_ATTR HWY_INLINE hn::Vec<I> Places(hn::Vec<I> keys, const Table& table,
                                      int32_t size) {
  const I i;
  hn::Vec<I> place = hn::Zero(i);
  if (size <= kFew) {
    for (int32_t level = 1; level < size; ++level) {
      const auto below = hn::Lt(keys, hn::Set(i, table.keys[level]));
      place = hn::Add(place, hn::IfThenZeroElse(below, hn::Set(i, 1)));
    }
    return place;
  }
  for (int32_t step = table.first_step; step > 0; step /= 2) {
    const hn::Vec<I> probe = hn::Add(place, hn::Set(i, step));
    const auto below = hn::Lt(keys, hn::GatherIndex(i, table.keys, probe));
    place = hn::IfThenElse(below, place, probe);
  }
  return place;
}

HWY_ATTR void RoundRow(const float* values, int64_t columns, float scale,
                       const LevelGridRule& rule, const Table& table,
                       uint8_t* codes) {
  const F f;
  const I i;
  const hn::Rebind<uint8_t, F> u8;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  const hn::Vec<F> unit = hn::Set(f, rule.reciprocal ? 1.0f / scale : scale);
  int64_t done = 0;
  // A scale of 0 is the scalar loop's business.
  for (; scale != 0 && done + lanes <= columns; done += lanes) {
    const hn::Vec<F> value = hn::LoadU(f, values + done);
    const hn::Vec<F> scaled =
        rule.reciprocal ? hn::Mul(value, unit) : hn::Div(value, unit);
    const hn::Vec<I> place = Places(Keys(scaled), table, rule.size);
    hn::StoreU(hn::DemoteTo(u8, hn::GatherIndex(i, table.codes, place)), u8,
               codes + done);
  }
  for (; done < columns; ++done) {
    codes[done] = NearestLevel(InUnits(values[done], scale, rule), rule);
  }
}

HWY_ATTR void Round(const float* values, int64_t rows, int64_t columns,
                    const float* scales, const LevelGridRule& rule,
                    uint8_t* codes) {
  const Table table(rule);
  for (int64_t r = 0; r < rows; ++r) {
    RoundRow(values + r * columns, columns, scales[r], rule, table,
             codes + r * columns);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd::kernels {

HWY_EXPORT(Round);

void RoundToLevels(const float* values, int64_t rows, int64_t columns,
                   const float* scales, const LevelGridRule& rule,
                   uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(Round)(values, rows, columns, scales, rule, codes);
}

}  // namespace quantd::kernels
#endif  // HWY_ONCE
