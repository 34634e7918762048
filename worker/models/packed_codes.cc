// SPDX-License-Identifier: Apache-2.0
#include "worker/models/packed_codes.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "worker/kernels/unpack_cpu.h"

namespace quantd::models {
namespace {

// So many codes fill whole bytes whatever their width.
constexpr int64_t kCodesPerUnit = 8;

int64_t NumUnits(int64_t columns) {
  return (columns + kCodesPerUnit - 1) / kCodesPerUnit;
}

// One row of `columns` codes; `bits` bytes hold eight of them.
void PackRow(const uint8_t* codes, int bits, int64_t columns, uint8_t* packed) {
  for (int64_t k = 0; k < columns; k += kCodesPerUnit) {
    uint64_t unit = 0;
    const int64_t count = std::min(kCodesPerUnit, columns - k);
    for (int64_t j = 0; j < count; ++j) {
      unit |= static_cast<uint64_t>(codes[k + j]) << (j * bits);
    }
    for (int b = 0; b < bits; ++b) {
      *packed++ = static_cast<uint8_t>(unit >> (8 * b));
    }
  }
}

}  // namespace

at::Tensor PackCodes(const at::Tensor& codes, int bits) {
  const int64_t rows = codes.size(0);
  const int64_t columns = codes.size(1);
  at::Tensor packed = at::zeros({rows, NumUnits(columns) * bits}, at::kByte);
  const at::Tensor source = codes.contiguous();
  const uint8_t* from = source.const_data_ptr<uint8_t>();
  uint8_t* to = packed.mutable_data_ptr<uint8_t>();
  for (int64_t r = 0; r < rows; ++r) {
    PackRow(from + r * columns, bits, columns, to + r * packed.size(1));
  }
  return packed;
}

at::Tensor UnpackCodesByOperations(const at::Tensor& packed, int bits,
                                   int64_t columns) {
  const int64_t rows = packed.size(0);
  const at::Tensor units =
      packed.view({rows, NumUnits(columns), bits}).to(at::kInt);
  const int64_t mask = (1 << bits) - 1;
  std::vector<at::Tensor> codes;
  for (int64_t j = 0; j < kCodesPerUnit; ++j) {
    const int64_t byte = j * bits / 8;
    const int64_t shift = j * bits % 8;
    at::Tensor code = units.select(2, byte).__rshift__(shift);
    if (shift + bits > 8) {
      code = code.bitwise_or(units.select(2, byte + 1).__lshift__(8 - shift));
    }
    codes.push_back(code.bitwise_and(mask).to(at::kByte));
  }
  return at::stack(codes, 2).view({rows, -1}).narrow(1, 0, columns);
}

at::Tensor UnpackCodes(const at::Tensor& packed, int bits, int64_t columns) {
  if (!packed.is_cpu()) {
    return UnpackCodesByOperations(packed, bits, columns).contiguous();
  }
  const int64_t rows = packed.size(0);
  at::Tensor codes = at::empty({rows, columns}, at::kByte);
  const uint8_t* from = packed.const_data_ptr<uint8_t>();
  uint8_t* to = codes.mutable_data_ptr<uint8_t>();
  const int64_t row_bytes = packed.size(1);
  // A thread should get tens of thousands of codes or it is not worth waking.
  const int64_t grain =
      std::max<int64_t>(1, 65536 / std::max<int64_t>(1, columns));
  at::parallel_for(0, rows, grain, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      kernels::UnpackRow(from + r * row_bytes, bits, columns, to + r * columns);
    }
  });
  return codes;
}

}  // namespace quantd::models
