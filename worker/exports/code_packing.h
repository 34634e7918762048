// SPDX-License-Identifier: Apache-2.0
// Codes of 1 to 8 bits in 32-bit words: code i of a row stands at bit
// bits * i of the row's little-endian bit stream. For 2, 4 and 8 bits no code
// straddles a word; for 3 bits 32 codes fill 3 words.
#pragma once

#include <ATen/core/Tensor.h>

namespace quantd::exports {

// Codes that fill whole words for every width.
inline constexpr int64_t kCodesPerChunk = 32;

// uint8 [rows, cols] with values below 2^bits, contiguous, cols a multiple of
// 32 -> int32 [rows, cols * bits / 32].
at::Tensor PackRows(const at::Tensor& codes, int bits);

// The inverse: int32 [rows, words], contiguous, words a multiple of `bits` ->
// uint8 [rows, words * 32 / bits].
at::Tensor UnpackRows(const at::Tensor& words, int bits);

// The same in planes: of every 32 codes first the lowest bits of all, then the
// next, each plane 8, 4, 2 or 1 bits wide, the widest that fits first (6 bits
// are 4 and 2), and packed like codes of that width. 1, 2, 4 and 8 bits are one
// plane, so that PackRows gives the same words.
at::Tensor PackPlanes(const at::Tensor& codes, int bits);
at::Tensor UnpackPlanes(const at::Tensor& words, int bits);

}  // namespace quantd::exports
