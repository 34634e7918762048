// SPDX-License-Identifier: Apache-2.0
// Qwen2 and Qwen2.5: arXiv:2407.10671. Queries, keys and values have a bias.
#include "worker/models/families.h"

namespace quantd::models {

FamilyTraits Qwen2() {
  return {.id = "qwen2",
          .summary = "Qwen2 and Qwen2.5, dense.",
          .defaults = {.vocab = 151936,
                       .intermediate = 22016,
                       .kv_heads = 32,
                       .context = 32768,
                       .q_k_v_bias = true},
          .read = ReadLateWindows};
}

}  // namespace quantd::models
