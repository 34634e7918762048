// SPDX-License-Identifier: Apache-2.0
// The weights of one linear layer after rounding, independent of any file
// layout. Methods make it, exports write it, models run it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

namespace quantd::formats {

// A plain value. All tensors are contiguous and on the CPU.
//
// The dequantized weight, in float32 and in this order of operations, is
//   W[n, k] = scales[n, g] * (level(codes[n, k]) - zeros[n, g]) + offsets[n, g]
// with g = group of k, where level(c) is what the format's code c stands for (c
// itself for integers), and zeros and offsets are 0 where they are undefined.
struct QuantizedLinear {
  // The id of the number format, for example "int4".
  std::string format;
  int64_t out_features = 0;
  int64_t in_features = 0;
  // Input features per group; in_features where one group spans a row.
  int64_t group_size = 0;
  // 1: groups run along the input features of a row. 0: as HQQ's axis 0 has it,
  // with G = out * in / group_size groups, weight i in row-major order belongs
  // to group i mod G; scales and zeros are [1, G].
  int64_t group_axis = 1;
  bool symmetric = true;
  // uint8 [out, in]: code points 0 .. 2^bits - 1, in original column order.
  at::Tensor codes;
  // float32 [out, groups]: already rounded to the type they are stored in.
  at::Tensor scales;
  // uint8 [out, groups]: integer zero points, for symmetric grids 2^(bits-1).
  // float32 [out, groups]: zero points between codes. Undefined for formats
  // whose levels stand around 0.
  at::Tensor zeros;
  // float32 [out, groups]: already rounded to the type they are stored in.
  // Undefined but for formats that store a minimum in place of a zero point,
  // whose groups run along the input features.
  at::Tensor offsets;
  // int32 [in]: the group of each input feature. Undefined where it is
  // k / group_size, the usual case.
  at::Tensor group_index;
  // What the format keeps besides, by a name of its page: the parts that
  // `scales` were computed from, for layouts that store those. Not read to
  // dequantize.
  std::map<std::string, at::Tensor> parts;

  int64_t num_groups() const { return scales.size(1); }
};

}  // namespace quantd::formats
