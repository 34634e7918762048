// SPDX-License-Identifier: Apache-2.0
// Recipe and job files: a recipe that is accepted and sound is written as text
// that reads back to the same recipe.
#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "proto/spec/canonical.h"
#include "proto/spec/recipe_file.h"
#include "proto/spec/recipe_rules.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto job = quantd::spec::ParseJobSpec(text);
  if (job.ok()) quantd::spec::CheckJobSpec(*job);
  const auto recipe = quantd::spec::ParseRecipe(text);
  if (!recipe.ok() || !quantd::spec::CheckRecipe(*recipe).empty()) return 0;
  const auto again =
      quantd::spec::ParseRecipe(quantd::spec::RecipeText(*recipe));
  if (!again.ok() || quantd::spec::CanonicalText(*again) !=
                         quantd::spec::CanonicalText(*recipe)) {
    std::abort();
  }
  return 0;
}
