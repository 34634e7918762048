// SPDX-License-Identifier: Apache-2.0
// float32 matrix products whose sums are taken in an order that depends on the
// shape alone and not on the number of threads, with what a general library
// leaves out: only the upper triangle of a result, triangular operands, and a
// diagonal matrix between the two.
#pragma once

#include "worker/kernels/panels_cpu.h"

namespace quantd::kernels {

// Computes `product` on LibTorch's threads. Operands and result must not
// overlap. Allocates 1 KiB for each line of either side.
void Multiply(const Product& product);

}  // namespace quantd::kernels
