// SPDX-License-Identifier: Apache-2.0
// Patterns over full module names: `*` stands for any bytes, dots included, `?`
// for one byte; everything else stands for itself.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "quantd/v1/recipe.pb.h"

namespace quantd::spec {

// True where the whole of `name` matches. Time is O(pattern x name).
bool GlobMatches(absl::string_view pattern, absl::string_view name);

// What a recipe asks for one module: the defaults with the last matching
// override laid over them.
struct ModuleSettings {
  // True: the module stays in floating point; the rest has no meaning.
  bool skip = false;
  v1::WeightFormat weights;
  std::string activations;
  v1::ActivationRounding rounding;
  // Parameters for this module alone, see module_components.h.
  std::map<std::string, v1::Value> extra;
};
ModuleSettings SettingsFor(const v1::Recipe& recipe,
                           absl::string_view module_name);

// INVALID_ARGUMENT, PATTERN_MATCHES_NOTHING, for every override whose pattern
// matches none of `module_names`, each with the nearest names.
absl::Status CheckPatterns(const v1::Recipe& recipe,
                           const std::vector<std::string>& module_names);

}  // namespace quantd::spec
