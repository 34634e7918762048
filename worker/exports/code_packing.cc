// SPDX-License-Identifier: Apache-2.0
#include "worker/exports/code_packing.h"

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/base/config.h"
#include "c10/util/Exception.h"

namespace quantd::exports {
namespace {

#ifndef ABSL_IS_LITTLE_ENDIAN
#error "words are read and written in the machine's order"
#endif

constexpr int64_t kCodesPerOctet = 8;
// Below this many codes a thread costs more than it saves.
constexpr int64_t kGrainCodes = 1 << 16;

// Eight codes, one per byte, to the low 8 * bits bits: neighbours are joined in
// pairs, pairs in fours, fours in eights.
template <int kBits>
uint64_t Compress(uint64_t x) {
  constexpr uint64_t kBytes = 0x00FF00FF00FF00FF;
  constexpr uint64_t kPairs = 0x0000FFFF0000FFFF;
  constexpr uint64_t kFours = 0x00000000FFFFFFFF;
  x = (x & kBytes) | ((x >> 8 & kBytes) << kBits);
  x = (x & kPairs) | ((x >> 16 & kPairs) << (2 * kBits));
  return (x & kFours) | ((x >> 32) << (4 * kBits));
}

template <int kBits>
uint64_t Expand(uint64_t x) {
  const uint64_t four = (uint64_t{1} << (4 * kBits)) - 1;
  const uint64_t pair = ((uint64_t{1} << (2 * kBits)) - 1) * 0x0000000100000001;
  const uint64_t code = ((uint64_t{1} << kBits) - 1) * 0x0001000100010001;
  x = (x & four) | ((x >> (4 * kBits) & four) << 32);
  x = (x & pair) | ((x >> (2 * kBits) & pair) << 16);
  return (x & code) | ((x >> kBits & code) << 8);
}

// Eight codes of so many bits are exactly as many bytes of the stream, so a row
// is a run of octets whatever the width. Copies of a size that is known are one
// instruction.
template <int kBits>
void PackOctets(const uint8_t* codes, int64_t octets, uint8_t* out) {
  for (int64_t i = 0; i < octets; ++i) {
    uint64_t x;
    std::memcpy(&x, codes + i * kCodesPerOctet, sizeof(x));
    x = Compress<kBits>(x);
    std::memcpy(out + i * kBits, &x, kBits);
  }
}

template <int kBits>
void UnpackOctets(const uint8_t* in, int64_t octets, uint8_t* codes) {
  for (int64_t i = 0; i < octets; ++i) {
    uint64_t x = 0;
    std::memcpy(&x, in + i * kBits, kBits);
    x = Expand<kBits>(x);
    std::memcpy(codes + i * kCodesPerOctet, &x, sizeof(x));
  }
}

// By width.
using Octets = void (*)(const uint8_t* from, int64_t octets, uint8_t* to);
constexpr Octets kPack[] = {PackOctets<1>, PackOctets<2>, PackOctets<3>,
                            PackOctets<4>, PackOctets<5>, PackOctets<6>,
                            PackOctets<7>, PackOctets<8>};
constexpr Octets kUnpack[] = {UnpackOctets<1>, UnpackOctets<2>, UnpackOctets<3>,
                              UnpackOctets<4>, UnpackOctets<5>, UnpackOctets<6>,
                              UnpackOctets<7>, UnpackOctets<8>};

// The widths of the planes of a code, from its lowest bits up.
std::vector<int> PlaneWidths(int bits) {
  std::vector<int> widths;
  for (const int width : {8, 4, 2, 1}) {
    if ((bits & width) != 0) widths.push_back(width);
  }
  return widths;
}

int64_t RowsPerTask(int64_t codes_per_row) {
  return kGrainCodes / (codes_per_row + 1) + 1;
}

}  // namespace

at::Tensor PackRows(const at::Tensor& codes, int bits) {
  const int64_t rows = codes.size(0);
  const int64_t cols = codes.size(1);
  TORCH_CHECK(cols % kCodesPerChunk == 0 && codes.is_contiguous());
  at::Tensor words = at::empty({rows, cols * bits / 32}, at::kInt);
  const uint8_t* in = codes.const_data_ptr<uint8_t>();
  uint8_t* out = static_cast<uint8_t*>(words.mutable_data_ptr());
  at::parallel_for(0, rows, RowsPerTask(cols), [&](int64_t from, int64_t to) {
    for (int64_t row = from; row < to; ++row) {
      kPack[bits - 1](in + row * cols, cols / kCodesPerOctet,
                      out + row * cols * bits / 8);
    }
  });
  return words;
}

at::Tensor UnpackRows(const at::Tensor& words, int bits) {
  const int64_t rows = words.size(0);
  TORCH_CHECK(words.size(1) % bits == 0 && words.is_contiguous());
  const int64_t cols = words.size(1) / bits * kCodesPerChunk;
  at::Tensor codes = at::empty({rows, cols}, at::kByte);
  const uint8_t* in = static_cast<const uint8_t*>(words.const_data_ptr());
  uint8_t* out = codes.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, rows, RowsPerTask(cols), [&](int64_t from, int64_t to) {
    for (int64_t row = from; row < to; ++row) {
      kUnpack[bits - 1](in + row * cols * bits / 8, cols / kCodesPerOctet,
                        out + row * cols);
    }
  });
  return codes;
}

at::Tensor PackPlanes(const at::Tensor& codes, int bits) {
  const int64_t rows = codes.size(0);
  const int64_t cols = codes.size(1);
  const at::Tensor chunks = codes.view({-1, kCodesPerChunk});
  std::vector<at::Tensor> planes;
  int shift = 0;
  for (const int width : PlaneWidths(bits)) {
    planes.push_back(PackRows(
        chunks.bitwise_right_shift(shift).bitwise_and_((1 << width) - 1),
        width));
    shift += width;
  }
  return at::cat(planes, 1).view({rows, cols * bits / 32});
}

at::Tensor UnpackPlanes(const at::Tensor& words, int bits) {
  const int64_t rows = words.size(0);
  TORCH_CHECK(words.size(1) % bits == 0 && words.is_contiguous());
  const at::Tensor chunks = words.view({-1, bits});
  at::Tensor codes = at::zeros({chunks.size(0), kCodesPerChunk}, at::kByte);
  int shift = 0;
  for (const int width : PlaneWidths(bits)) {
    const at::Tensor plane = chunks.narrow(1, shift, width).contiguous();
    codes.bitwise_or_(UnpackRows(plane, width).bitwise_left_shift(shift));
    shift += width;
  }
  return codes.view({rows, words.size(1) / bits * kCodesPerChunk});
}

}  // namespace quantd::exports
