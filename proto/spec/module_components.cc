// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/module_components.h"

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/spec/violation.h"

namespace quantd::spec {

absl::StatusOr<ModuleComponents> ComponentsWith(
    const v1::Recipe& recipe, const std::map<std::string, v1::Value>& extra) {
  ModuleComponents components{
      recipe.method(),
      {recipe.transforms().begin(), recipe.transforms().end()}};
  for (const auto& [key, value] : extra) {
    const size_t dot = key.find('.');
    if (dot == std::string::npos) {
      (*components.method.mutable_params())[key] = value;
      continue;
    }
    bool found = false;
    for (v1::Component& transform : components.transforms) {
      if (transform.id() != key.substr(0, dot)) continue;
      (*transform.mutable_params())[key.substr(dot + 1)] = value;
      found = true;
    }
    if (found) continue;
    return base::MakeError(absl::StatusCode::kInvalidArgument,
                           "PARAMETER_INVALID",
                           absl::StrCat("\"", Shortened(key),
                                        "\" is a parameter of a transform, "
                                        "and the recipe has none called \"",
                                        Shortened(key.substr(0, dot)), "\""));
  }
  return components;
}

}  // namespace quantd::spec
