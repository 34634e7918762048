// SPDX-License-Identifier: Apache-2.0
// Llama 1 to 3: Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288.
#include "worker/models/families.h"

namespace quantd::models {

FamilyTraits Llama() {
  return {.id = "llama",
          .summary = "Llama 1 to 3 and models of the same form.",
          .defaults = {},
          .read = [](ConfigReader* config, Shape* shape) {
            const bool attention = config->Bool("attention_bias", false);
            shape->q_k_v_bias = attention;
            shape->o_bias = attention;
            shape->mlp_bias = config->Bool("mlp_bias", false);
          }};
}

}  // namespace quantd::models
