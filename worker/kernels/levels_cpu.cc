// SPDX-License-Identifier: Apache-2.0
// NearestLevel, one vector at a time: computed where the levels are evenly
// spaced or those of a floating-point type; else every lane takes as many steps
// as the table is deep, and none branches.
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
struct KeyTable {
  explicit KeyTable(const LevelGridRule& rule) {
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

// Codes of values in units of the scale, by the three kinds of spacing.
class FewLevels {
 public:
  FewLevels(const LevelLookup& table, const KeyTable& keys)
      : size_(table.rule.size), keys_(keys.keys) {
    std::copy(table.rule.codes, table.rule.codes + std::min(size_, kFew),
              codes_);
  }
  HWY_ATTR HWY_INLINE void Round(hn::Vec<F> values, uint8_t* to) const {
    const I i;
    const hn::Vec<I> keys = Keys(values);
    // How many of keys[1 ..] a key reaches, counted down from all.
    hn::Vec<I> place = hn::Set(i, size_ - 1);
    for (int32_t level = 1; level < size_; ++level) {
      const auto below = hn::Lt(keys, hn::Set(i, keys_[level]));
      place = hn::Add(place, hn::VecFromMask(i, below));
    }
#if HWY_TARGET == HWY_SCALAR
    *to = codes_[hn::GetLane(place)];
#else
    const hn::Rebind<uint8_t, F> u8;
    const auto table = hn::LoadU(hn::Full128<uint8_t>(), codes_);
    hn::StoreU(hn::TableLookupBytes(table, hn::DemoteTo(u8, place)), u8, to);
#endif
  }

 private:
  const int32_t size_;
  const int32_t* keys_;
  uint8_t codes_[kFew] = {};
};

class ManyLevels {
 public:
  ManyLevels(const LevelLookup&, const KeyTable& table) : table_(table) {}
  HWY_ATTR HWY_INLINE void Round(hn::Vec<F> values, uint8_t* to) const {
    const I i;
    const hn::Rebind<uint8_t, F> u8;
    const hn::Vec<I> keys = Keys(values);
    hn::Vec<I> place = hn::Zero(i);
    for (int32_t step = table_.first_step; step > 0; step /= 2) {
      const hn::Vec<I> probe = hn::Add(place, hn::Set(i, step));
      const auto below = hn::Lt(keys, hn::GatherIndex(i, table_.keys, probe));
      place = hn::IfThenElse(below, place, probe);
    }
    hn::StoreU(hn::DemoteTo(u8, hn::GatherIndex(i, table_.codes, place)), u8,
               to);
  }

 private:
  const KeyTable& table_;
};

// With E the exponent of |x|, that of the least normal number at least: the sum
// of |x| and 2^(E + 23 - mantissa bits) is |x| rounded to that many bits, ties
// to even, and its last bits count them. Steps of E are steps of the code, too.
class FloatLevels {
 public:
  FloatLevels(const LevelLookup& table, const KeyTable&)
      : largest_(table.spacing.largest),
        least_((table.spacing.least_exponent + 127) << 23),
        dropped_(23 - table.spacing.mantissa_bits),
        sign_shift_(31 - table.spacing.exponent_bits -
                    table.spacing.mantissa_bits) {}
  HWY_ATTR HWY_INLINE void Round(hn::Vec<F> values, uint8_t* to) const {
    const F f;
    const I i;
    const hn::RebindToUnsigned<F> u;
    const hn::Rebind<uint8_t, F> u8;
    const hn::Vec<I> least = hn::Set(i, least_);
    const auto size = hn::Min(hn::Abs(values), hn::Set(f, largest_));
    const hn::Vec<I> exponent =
        hn::Max(hn::And(hn::BitCast(i, size), hn::Set(i, 0x7f800000)), least);
    const hn::Vec<I> large = hn::Add(exponent, hn::Set(i, dropped_ << 23));
    const auto sum = hn::Add(size, hn::BitCast(f, large));
    const hn::Vec<I> steps = hn::Sub(hn::BitCast(i, sum), large);
    const hn::Vec<I> begin =
        hn::ShiftRightSame(hn::Sub(exponent, least), dropped_);
    const auto sign = hn::ShiftRightSame(
        hn::And(hn::BitCast(u, values), hn::Set(u, 0x80000000u)), sign_shift_);
    const hn::Vec<I> code = hn::Or(hn::Add(steps, begin), hn::BitCast(i, sign));
    hn::StoreU(hn::DemoteTo(u8, code), u8, to);
  }

 private:
  const float largest_;
  const int32_t least_;
  const int dropped_;
  const int sign_shift_;
};

class EvenLevels {
 public:
  EvenLevels(const LevelLookup& table, const KeyTable&)
      : largest_(table.spacing.largest), per_unit_(table.spacing.per_unit) {}
  HWY_ATTR HWY_INLINE void Round(hn::Vec<F> values, uint8_t* to) const {
    const F f;
    const I i;
    const hn::Rebind<uint8_t, F> u8;
    const auto largest = hn::Set(f, largest_);
    const auto inside = hn::Max(hn::Min(values, largest), hn::Neg(largest));
    const hn::Vec<I> code =
        hn::NearestInt(hn::Mul(inside, hn::Set(f, per_unit_)));
    hn::StoreU(hn::DemoteTo(u8, hn::And(code, hn::Set(i, 0xff))), u8, to);
  }

 private:
  const float largest_;
  const float per_unit_;
};

template <class Levels>
HWY_ATTR HWY_INLINE void RoundRow(const float* values, int64_t columns,
                                  float scale, const LevelGridRule& rule,
                                  const Levels& levels, uint8_t* codes) {
  const F f;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  const hn::Vec<F> unit = hn::Set(f, rule.reciprocal ? 1.0f / scale : scale);
  int64_t done = 0;
  // A scale of 0 is the scalar loop's business.
  for (; scale != 0 && done + lanes <= columns; done += lanes) {
    const hn::Vec<F> value = hn::LoadU(f, values + done);
    levels.Round(rule.reciprocal ? hn::Mul(value, unit) : hn::Div(value, unit),
                 codes + done);
  }
  for (; done < columns; ++done) {
    codes[done] = NearestLevel(InUnits(values[done], scale, rule), rule);
  }
}

template <class Levels>
HWY_ATTR void RoundWith(const float* values, int64_t rows, int64_t columns,
                        const float* scales, const LevelLookup& table,
                        uint8_t* codes) {
  const KeyTable keys(table.rule);
  const Levels levels(table, keys);
  for (int64_t r = 0; r < rows; ++r) {
    RoundRow(values + r * columns, columns, scales[r], table.rule, levels,
             codes + r * columns);
  }
}

HWY_ATTR void Round(const float* values, int64_t rows, int64_t columns,
                    const float* scales, const LevelLookup& table,
                    uint8_t* codes) {
  switch (table.spacing.kind) {
    case LevelSpacing::Kind::kFloat:
      return RoundWith<FloatLevels>(values, rows, columns, scales, table,
                                    codes);
    case LevelSpacing::Kind::kEven:
      return RoundWith<EvenLevels>(values, rows, columns, scales, table, codes);
    case LevelSpacing::Kind::kTable:
      break;
  }
  if (table.rule.size <= kFew) {
    return RoundWith<FewLevels>(values, rows, columns, scales, table, codes);
  }
  RoundWith<ManyLevels>(values, rows, columns, scales, table, codes);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd::kernels {

HWY_EXPORT(Round);

void RoundToLevels(const float* values, int64_t rows, int64_t columns,
                   const float* scales, const LevelLookup& table,
                   uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(Round)(values, rows, columns, scales, table, codes);
}

}  // namespace quantd::kernels
#endif  // HWY_ONCE
