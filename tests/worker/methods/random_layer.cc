// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/methods/random_layer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

namespace quantd::methods {

at::Tensor RandomNormal(int64_t rows, int64_t columns, uint32_t seed) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal;
  at::Tensor result = at::empty({rows, columns});
  float* data = result.data_ptr<float>();
  for (int64_t i = 0; i < result.numel(); ++i) data[i] = normal(bits);
  return result;
}

RandomLayer MakeRandomLayer(int64_t out, int64_t in, int64_t tokens,
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
