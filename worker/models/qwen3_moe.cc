// SPDX-License-Identifier: Apache-2.0
// Qwen3-MoE: arXiv:2505.09388. Qwen3's attention; no shared expert.
#include "worker/models/families.h"

namespace quantd::models {

FamilyTraits Qwen3Moe() {
  return {.id = "qwen3_moe",
          .summary = "Qwen3, mixtures of experts.",
          .defaults = {.vocab = 151936,
                       .hidden = 2048,
                       .intermediate = 6144,
                       .layers = 24,
                       .heads = 32,
                       .kv_heads = 4,
                       .context = 32768,
                       .q_k_norm = HeadNorm::kEachHead,
                       .mixture = {.experts = 128,
                                   .chosen = 8,
                                   .intermediate = 768}},
          .read = [](ConfigReader* config, Shape* shape) {
            const bool attention = config->Bool("attention_bias", false);
            shape->q_k_v_bias = attention;
            shape->o_bias = attention;
            ReadMixture(config, shape);
            ReadSparseLayers(config, shape);
            // One window for all layers.
            ReadWindows(config, shape, [](int64_t, int64_t) { return true; });
          }};
}

}  // namespace quantd::models
