// SPDX-License-Identifier: Apache-2.0
// The mixed-precision file: what is refused leaves the recipe, and what is
// accepted and sound is written as text that says the same.
#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "proto/spec/canonical.h"
#include "proto/spec/mixed_config.h"
#include "proto/spec/recipe_rules.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using quantd::spec::ApplyMixedConfig;
  using quantd::spec::CanonicalText;
  static const auto& start =
      *new auto(quantd::spec::WithDefaults(quantd::v1::Recipe()));
  quantd::v1::Recipe recipe = start;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  if (!ApplyMixedConfig(text, &recipe).ok()) {
    if (CanonicalText(recipe) != CanonicalText(start)) std::abort();
    return 0;
  }
  if (!quantd::spec::CheckRecipe(recipe).empty()) return 0;
  quantd::v1::Recipe again = start;
  if (!ApplyMixedConfig(quantd::spec::MixedConfigText(recipe), &again).ok() ||
      CanonicalText(again) != CanonicalText(recipe)) {
    std::abort();
  }
  return 0;
}
