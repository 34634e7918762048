// SPDX-License-Identifier: Apache-2.0
// Which parameters a recipe's components have for one module. Pure.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "quantd/v1/recipe.pb.h"

namespace quantd::spec {

struct ModuleComponents {
  v1::Component method;
  // In the recipe's order.
  std::vector<v1::Component> transforms;
};

// The recipe's method and transforms with the `extra` of an override laid over
// their parameters: `name` is a parameter of the method, `id.name` one of every
// transform of that id. Values are not looked at. INVALID_ARGUMENT,
// PARAMETER_INVALID, where the recipe has no such transform.
absl::StatusOr<ModuleComponents> ComponentsWith(
    const v1::Recipe& recipe, const std::map<std::string, v1::Value>& extra);

}  // namespace quantd::spec
