// SPDX-License-Identifier: Apache-2.0
// Mixtral: Jiang et al. 2024, arXiv:2401.04088. Mistral's attention; every
// layer has experts, whose weights always sum to one.
#include <algorithm>

#include "worker/models/families.h"

namespace quantd::models {

FamilyTraits Mixtral() {
  return {.id = "mixtral",
          .summary = "Mixtral, a mixture of experts.",
          .defaults = {.intermediate = 14336,
                       .kv_heads = 8,
                       .context = 131072,
                       .norm_eps = 1e-5,
                       .rope = {.theta = 1e6},
                       .mixture = {.experts = 8,
                                   .chosen = 2,
                                   .renormalize = true,
                                   .names = {.layer = "block_sparse_moe",
                                             .gate = "w1",
                                             .up = "w3",
                                             .down = "w2"}}},
          .read = [](ConfigReader* config, Shape* shape) {
            const int64_t window = config->Int("sliding_window", 0, {0, 1e9});
            std::fill(shape->windows.begin(), shape->windows.end(), window);
            ReadMixture(config, shape);
          }};
}

}  // namespace quantd::models
