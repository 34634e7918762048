// SPDX-License-Identifier: Apache-2.0
// OLMoE: Muennighoff et al. 2024, arXiv:2409.02060. Queries and keys are
// normalised over all heads and cut, as values are; every layer has experts.
#include "worker/models/families.h"

namespace quantd::models {

FamilyTraits Olmoe() {
  return {.id = "olmoe",
          .summary = "OLMoE, a mixture of experts.",
          .defaults = {.vocab = 50304,
                       .hidden = 2048,
                       .intermediate = 2048,
                       .layers = 16,
                       .heads = 16,
                       .context = 4096,
                       .norm_eps = 1e-5,
                       .q_k_norm = HeadNorm::kAllHeads,
                       .mixture = {.experts = 64, .chosen = 8}},
          .read = [](ConfigReader* config, Shape* shape) {
            const bool attention = config->Bool("attention_bias", false);
            shape->q_k_v_bias = attention;
            shape->o_bias = attention;
            shape->q_k_v_clip = config->Number("clip_qkv", 0, {0, 1e9});
            ReadMixture(config, shape);
            shape->mixture.renormalize = config->Bool("norm_topk_prob", false);
          }};
}

}  // namespace quantd::models
