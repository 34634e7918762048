// SPDX-License-Identifier: Apache-2.0
// The factor of error feedback in place.
#pragma once

#include <cstdint>

namespace quantd::kernels {

// With H = M diag(pivots) M^T, M unit upper triangular, replaces the upper
// triangle of H by M^-1, ones on its diagonal included. `matrix` [n, n], rows
// `stride` apart; the strict lower triangle is neither read nor changed.
// `pivots` [n], written. False where a pivot is not positive and finite: then
// both hold nothing of use.
bool FactorInverse(float* matrix, int64_t stride, int64_t n, float* pivots);

}  // namespace quantd::kernels
