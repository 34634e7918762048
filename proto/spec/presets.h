// SPDX-License-Identifier: Apache-2.0
// What `--method ID` stands for: a preset of the catalog laid over the defaults
// that every recipe starts from.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "quantd/v1/catalog.pb.h"
#include "quantd/v1/recipe.pb.h"

namespace quantd::spec {

// int4, groups of 128, symmetric, float16 scales, activations left alone, 128
// bundled samples of 512 tokens, RTN where the numbers go wrong. The method and
// the exports are left open.
v1::Recipe BaseRecipe();

// BaseRecipe with the preset `id` merged in; where the catalog has no such
// preset but a method of that name, with that method. What the preset leaves
// out keeps the base's value; lists of the preset replace. An open export
// becomes the one export of the catalog that provides "default", if any.
// NOT_FOUND, COMPONENT_UNKNOWN, with the nearest presets and methods.
absl::StatusOr<v1::Recipe> RecipeFromPreset(const v1::Catalog& catalog,
                                            absl::string_view id);

// The ids that RecipeFromPreset takes, sorted.
std::vector<std::string> PresetIds(const v1::Catalog& catalog);

}  // namespace quantd::spec
