// SPDX-License-Identifier: Apache-2.0
// Rounding without calibration as the published Python does it, operator for
// operator in ATen. `weight` float32 [out, in], whole groups of `group_size`;
// codes are uint8 [out, in], four bits.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace quantd::bench {

// The min-max grids of the GPTQ authors' quantizer (quant.py).
at::Tensor EagerNearest(const at::Tensor& weight, int64_t group_size,
                        bool symmetric);

// The same with its search for the range, 80 of them, by |w^ - w|^2.4.
at::Tensor EagerNearestOfSearched(const at::Tensor& weight, int64_t group_size,
                                  bool symmetric);

// Eight codes to an int32, as the kernels' packers do it: shifted and added.
at::Tensor EagerPack(const at::Tensor& codes);

// The published loop of HQQ (hqq/core/optimize.py, the one without autograd)
// for `steps` steps: p = 0.7, beta = 10; it does not stop early here.
at::Tensor EagerHqq(const at::Tensor& weight, int64_t group_size,
                    int64_t steps);

}  // namespace quantd::bench
