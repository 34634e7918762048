// SPDX-License-Identifier: Apache-2.0
// Mistral: Jiang et al. 2023, arXiv:2310.06825. One window for all layers.
#include <algorithm>

#include "worker/models/families.h"

namespace quantd::models {

FamilyTraits Mistral() {
  return {
      .id = "mistral",
      .summary = "Mistral, with or without a sliding window.",
      .defaults = {.intermediate = 14336, .kv_heads = 8, .context = 131072},
      .read = [](ConfigReader* config, Shape* shape) {
        // An absent key is the default window, a null is none.
        if (config->IsNull("sliding_window")) return;
        const int64_t window = config->Int("sliding_window", 4096, {1, 1e9});
        std::fill(shape->windows.begin(), shape->windows.end(), window);
      }};
}

}  // namespace quantd::models
