// SPDX-License-Identifier: Apache-2.0
#include "worker/kernels/unpack_cpu.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/kernels/unpack_cpu.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quantd::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kCodesPerUnit = 8;

// From code `begin` on, which begins a unit.
template <int kBits>
void UnpackUnits(const uint8_t* packed, int64_t begin, int64_t columns,
                 uint8_t* codes) {
  constexpr uint64_t kMask = (uint64_t{1} << kBits) - 1;
  packed += begin / kCodesPerUnit * kBits;
  for (int64_t k = begin; k < columns; k += kCodesPerUnit) {
    uint64_t unit = 0;
    for (int b = 0; b < kBits; ++b) unit |= uint64_t{packed[b]} << (8 * b);
    packed += kBits;
    uint8_t eight[kCodesPerUnit];
    for (int j = 0; j < kCodesPerUnit; ++j) {
      eight[j] = static_cast<uint8_t>((unit >> (j * kBits)) & kMask);
    }
    const int64_t count = std::min(kCodesPerUnit, columns - k);
    if (count == kCodesPerUnit) {
      memcpy(codes + k, eight, kCodesPerUnit);
    } else {
      memcpy(codes + k, eight, count);
    }
  }
}

// Two codes a byte: whole vectors, then units.
HWY_ATTR void UnpackNibbles(const uint8_t* packed, int64_t columns,
                            uint8_t* codes) {
  int64_t k = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::Full128<uint8_t> u8;
  const hn::Full128<uint16_t> u16;
  const int64_t bytes = static_cast<int64_t>(hn::Lanes(u8));
  const auto mask = hn::Set(u8, 0x0f);
  for (; k + 2 * bytes <= columns; k += 2 * bytes) {
    const auto pairs = hn::LoadU(u8, packed + k / 2);
    const auto even = hn::And(pairs, mask);
    const auto odd = hn::And(
        hn::BitCast(u8, hn::ShiftRight<4>(hn::BitCast(u16, pairs))), mask);
    hn::StoreU(hn::InterleaveLower(u8, even, odd), u8, codes + k);
    hn::StoreU(hn::InterleaveUpper(u8, even, odd), u8, codes + k + bytes);
  }
#endif
  UnpackUnits<4>(packed, k, columns, codes);
}

HWY_ATTR void Unpack(const uint8_t* packed, int bits, int64_t columns,
                     uint8_t* codes) {
  switch (bits) {
    case 1:
      return UnpackUnits<1>(packed, 0, columns, codes);
    case 2:
      return UnpackUnits<2>(packed, 0, columns, codes);
    case 3:
      return UnpackUnits<3>(packed, 0, columns, codes);
    case 4:
      return UnpackNibbles(packed, columns, codes);
    case 5:
      return UnpackUnits<5>(packed, 0, columns, codes);
    case 6:
      return UnpackUnits<6>(packed, 0, columns, codes);
    case 7:
      return UnpackUnits<7>(packed, 0, columns, codes);
    default:
      memcpy(codes, packed, columns);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd::kernels {

HWY_EXPORT(Unpack);

void UnpackRow(const uint8_t* packed, int bits, int64_t columns,
               uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(Unpack)(packed, bits, columns, codes);
}

}  // namespace quantd::kernels
#endif  // HWY_ONCE
