// SPDX-License-Identifier: Apache-2.0
// The 8-bit code that bitsandbytes stores scales in: the signed dynamic map,
// and blocks of it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "worker/kernels/levels_cpu.h"

namespace quantd::formats {

// float32 [256], rising: what each code stands for, in [-1, 1].
const at::Tensor& DynamicMap();

// Its rounding rule: products with the reciprocal of the scale, ties to the
// smaller code.
const kernels::LevelLookup& DynamicMapTable();

// Values that share a scale.
inline constexpr int64_t kDynamicBlock = 256;

// Values less `offset`, coded in blocks of kDynamicBlock.
struct DynamicCodes {
  at::Tensor codes;   // uint8 [n]
  at::Tensor absmax;  // float32 [ceil(n / kDynamicBlock)]
  at::Tensor offset;  // float32 [1]
};

// `values` float32 [n] on the CPU, n > 0, finite; the offset is their mean.
DynamicCodes EncodeDynamic(const at::Tensor& values);

// float32 [n].
at::Tensor DecodeDynamic(const DynamicCodes& coded);

}  // namespace quantd::formats
