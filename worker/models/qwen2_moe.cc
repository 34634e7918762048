// SPDX-License-Identifier: Apache-2.0
// Qwen1.5-MoE and Qwen2-MoE: arXiv:2407.10671, section 2.2.2. Qwen2's
// attention; sparse layers have an expert that sees every token.
#include "worker/models/families.h"

namespace quantd::models {

FamilyTraits Qwen2Moe() {
  return {.id = "qwen2_moe",
          .summary = "Qwen1.5-MoE and Qwen2-MoE, with a shared expert.",
          .defaults = {.vocab = 151936,
                       .hidden = 2048,
                       .intermediate = 5632,
                       .layers = 24,
                       .heads = 16,
                       .kv_heads = 16,
                       .context = 32768,
                       .mixture = {.experts = 60,
                                   .chosen = 4,
                                   .intermediate = 1408,
                                   .shared_intermediate = 5632}},
          .read = [](ConfigReader* config, Shape* shape) {
            shape->q_k_v_bias = config->Bool("qkv_bias", true);
            ReadMixture(config, shape);
            ReadSparseLayers(config, shape);
            shape->mixture.shared_intermediate =
                config->Int("shared_expert_intermediate_size",
                            shape->mixture.shared_intermediate, {1, 1048576});
            // Unlike qwen2: every other layer slides, the first among them.
            ReadWindows(config, shape,
                        [](int64_t layer, int64_t max_window_layers) {
                          return layer % 2 == 0 && layer < max_window_layers;
                        });
          }};
}

}  // namespace quantd::models
