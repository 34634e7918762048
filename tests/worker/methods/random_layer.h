// SPDX-License-Identifier: Apache-2.0
// Layers as models have them: normal weights, correlated inputs with a falling
// spectrum, some features much louder than others.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <cstdint>
#include <random>

#include "worker/calibration/gram.h"

namespace quantd::methods {

// float32 [rows, columns], standard normal; the same bits for the same seed.
inline at::Tensor RandomNormal(int64_t rows, int64_t columns, uint32_t seed) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal;
  at::Tensor result = at::empty({rows, columns});
  float* data = result.data_ptr<float>();
  for (int64_t i = 0; i < result.numel(); ++i) data[i] = normal(bits);
  return result;
}

struct RandomLayer {
  at::Tensor weight;  // float32 [out, in]
  at::Tensor input;   // float32 [tokens, in]
  calibration::Statistics statistics;
};

inline RandomLayer MakeRandomLayer(int64_t out, int64_t in, int64_t tokens,
                                   uint32_t seed) {
  RandomLayer layer;
  layer.weight = RandomNormal(out, in, seed).mul_(0.05);
  // A third of the directions carry most of the energy.
  const int64_t rank = in / 3 + 1;
  at::Tensor loudness = RandomNormal(1, in, seed + 3).exp_();
  layer.input = at::mm(RandomNormal(tokens, rank, seed + 1),
                       RandomNormal(rank, in, seed + 2))
                    .add_(RandomNormal(tokens, in, seed + 4), 0.3)
                    .mul_(loudness);
  layer.statistics.gram = at::mm(layer.input.t(), layer.input);
  layer.statistics.tokens = tokens;
  return layer;
}

}  // namespace quantd::methods
