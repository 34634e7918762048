// SPDX-License-Identifier: Apache-2.0
// Packed codes back to bytes. No LibTorch here: threads are the caller's.
#pragma once

#include <cstdint>

namespace quantd::kernels {

// Eight codes of `bits`, 1 to 8, take `bits` bytes, lowest bits first. Unpacks
// `columns` codes; the last eight may be incomplete, their bytes are all there.
void UnpackRow(const uint8_t* packed, int bits, int64_t columns,
               uint8_t* codes);

}  // namespace quantd::kernels
