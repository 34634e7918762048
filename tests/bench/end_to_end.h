// SPDX-License-Identifier: Apache-2.0
// One decoder block of true widths, quantized by the pipeline's own code and by
// the published algorithm in ATen operators.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace quantd::bench {

// `peak` in FLOP/s. Prints seconds beside the arithmetic, forward passes and
// memory.
absl::Status RunEndToEnd(int threads, double peak);

}  // namespace quantd::bench
