// SPDX-License-Identifier: Apache-2.0
// The two factors of a product with a Hadamard matrix, in float32. No LibTorch
// here: threads are the caller's.
#pragma once

#include <cstdint>

namespace quantd::kernels {

// `values` times Sylvester's matrix of order `size`, a power of two, in place:
// the fast Walsh-Hadamard transform, not normalised.
void WalshHadamard(float* values, int64_t size);

// out[j] = sum over i of matrix[j][i] in[i], where `matrix` is [order, order]
// and in[i] and out[j] are `width` values in a row. Summed in the order of i.
// `in` and `out` do not overlap.
void MixRows(const float* matrix, int64_t order, const float* in, int64_t width,
             float* out);

}  // namespace quantd::kernels
