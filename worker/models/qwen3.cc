// SPDX-License-Identifier: Apache-2.0
// Qwen3: arXiv:2505.09388. Every head of queries and keys is normalised.
#include "worker/models/families.h"

namespace quantd::models {

FamilyTraits Qwen3() {
  return {.id = "qwen3",
          .summary = "Qwen3, dense.",
          .defaults = {.vocab = 151936,
                       .intermediate = 22016,
                       .kv_heads = 32,
                       .head_dim = 128,
                       .context = 32768,
                       .q_k_norm = HeadNorm::kEachHead},
          .read = [](ConfigReader* config, Shape* shape) {
            const bool attention = config->Bool("attention_bias", false);
            shape->q_k_v_bias = attention;
            shape->o_bias = attention;
            ReadLateWindows(config, shape);
          }};
}

}  // namespace quantd::models
