// SPDX-License-Identifier: Apache-2.0
// Hadamard matrices: entries of 1 and -1, H H^T = n I. An order n = K 2^m is
// the Kronecker product of a base matrix of order K and Sylvester's of order
// 2^m. Bases come from quadratic residues (Paley, J. Math. Phys. 12, 1933) and,
// for 52, 156 and 172, from four circulants (Goethals and Seidel, J. Austral.
// Math. Soc. 11, 1970).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace quantd::numerics {

// True where TimesHadamard takes blocks of this many columns.
bool HasHadamard(int64_t order);

// The largest divisor of `columns` that has a Hadamard matrix; at least 1.
int64_t HadamardBlock(int64_t columns);

// `rows` [rows, columns] with each run of `order` columns multiplied by the
// Hadamard matrix of that order, not normalised, or by its transpose. float64,
// or, where programs do it while a model runs, float32; on any device, and
// gradients pass. `order` divides the columns and has a matrix; anything else
// is a bug and aborts.
at::Tensor TimesHadamard(const at::Tensor& rows, int64_t order);
at::Tensor TimesHadamardTransposed(const at::Tensor& rows, int64_t order);

}  // namespace quantd::numerics
