// SPDX-License-Identifier: Apache-2.0
// Codes of 1 to 8 bits in memory without gaps: eight codes of a row take `bits`
// bytes, lowest bits first; rows are filled up to a multiple of eight codes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace quantd::models {

// uint8 [rows, columns] on the CPU, codes below 2^bits -> uint8 [rows, bytes].
at::Tensor PackCodes(const at::Tensor& codes, int bits);

// The inverse, on the device of `packed`.
at::Tensor UnpackCodes(const at::Tensor& packed, int bits, int64_t columns);

// UnpackCodes of any device, by tensor operations.
at::Tensor UnpackCodesByOperations(const at::Tensor& packed, int bits,
                                   int64_t columns);

}  // namespace quantd::models
