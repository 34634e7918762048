// SPDX-License-Identifier: Apache-2.0
// What a catalog says about a recipe: ids that exist, parameters with legal
// values, and components that go together. The rules are data of the catalog
// (Requirement); no component is known here. Pure.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/spec/violation.h"
#include "quantd/v1/catalog.pb.h"
#include "quantd/v1/job.pb.h"

namespace quantd::spec {

// The property of a transform that edits the whole model before anything is
// fitted to its weights.
inline constexpr char kWholeModelProperty[] = "whole_model";

// Null where the catalog has no such entry.
const v1::ComponentEntry* FindEntry(const v1::Catalog& catalog, v1::Seam seam,
                                    absl::string_view id);

// True where a component with these parameters, defaults among them, has the
// requirement.
bool Applies(const v1::Requirement& requirement,
             const std::map<std::string, v1::Value>& params);

// All problems of the recipe (or of the tasks) against `catalog`; structure is
// checked by recipe_rules, before. A combination that a Requirement forbids is
// COMBINATION_ILLEGAL, with a sentence that names both components and what
// would work instead.
std::vector<Violation> CheckRecipe(const v1::Recipe& recipe,
                                   const v1::Catalog& catalog,
                                   const std::string& prefix = "");
std::vector<Violation> CheckJobSpec(const v1::JobSpec& spec,
                                    const v1::Catalog& catalog);

// Structure, then catalog: what submit, --dry-run and the worker call.
// INVALID_ARGUMENT, RECIPE_INVALID with every violation.
absl::Status ValidateJob(const v1::JobSpec& spec, const v1::Catalog& catalog);

// `recipe` with the catalog's defaults written out for every parameter and
// WithDefaults applied: two recipes mean the same where these are equal. A
// method's parameter `seed` is by default the low 32 bits of the recipe's seed,
// unless that is 0.
// NOT_FOUND or INVALID_ARGUMENT for a recipe that CheckRecipe refuses.
absl::StatusOr<v1::Recipe> ResolveRecipe(const v1::Recipe& recipe,
                                         const v1::Catalog& catalog);

}  // namespace quantd::spec
