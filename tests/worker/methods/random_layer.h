// SPDX-License-Identifier: Apache-2.0
// Layers as models have them: normal weights, correlated inputs with a falling
// spectrum, some features much louder than others.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <random>

#include "worker/calibration/gram.h"

namespace quantd::methods {

// float32 [rows, columns], standard normal; the same bits for the same seed.
at::Tensor RandomNormal(int64_t rows, int64_t columns, uint32_t seed);

struct RandomLayer {
  at::Tensor weight;  // float32 [out, in]
  at::Tensor input;   // float32 [tokens, in]
  calibration::Statistics statistics;
};

RandomLayer MakeRandomLayer(int64_t out, int64_t in, int64_t tokens,
                            uint32_t seed);

}  // namespace quantd::methods
