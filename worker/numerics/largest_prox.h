// SPDX-License-Identifier: Apache-2.0
// The proximal operator of the largest magnitude of a vector.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace quantd::numerics {

// Each run of `group_size` columns v of a row, the last of which may be short,
// becomes argmin_u 1/2 |u - v|^2 + t max|u|: v cut to +-c, where what is cut
// off sums to t; zeros where all of it sums to less (Parikh and Boyd, Proximal
// Algorithms, 2014, section 6.5.2). `rows` float32 [rows, columns], contiguous,
// finite, on the CPU; t >= 0. Row by row: the same bits for any number of
// threads.
void CutLargest(double t, int64_t group_size, const at::Tensor& rows);

}  // namespace quantd::numerics
