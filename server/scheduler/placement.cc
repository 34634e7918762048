// SPDX-License-Identifier: Apache-2.0
#include "server/scheduler/placement.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace quantd::scheduler {
namespace {

using Needs = std::vector<std::pair<v1::Seam, std::string>>;

Needs NeedsOf(const v1::JobSpec& spec) {
  Needs needs;
  auto add = [&needs](v1::Seam seam, const auto& components) {
    for (const v1::Component& component : components) {
      needs.emplace_back(seam, component.id());
    }
  };
  if (spec.has_evaluate()) {
    add(v1::SEAM_EVAL, spec.evaluate().evals());
    return needs;
  }
  const v1::Recipe& recipe = spec.quantize().recipe();
  add(v1::SEAM_TRANSFORM, recipe.transforms());
  if (!recipe.method().id().empty()) {
    needs.emplace_back(v1::SEAM_METHOD, recipe.method().id());
  }
  add(v1::SEAM_EXPORT, recipe.exports());
  add(v1::SEAM_EVAL, recipe.evals());
  return needs;
}

}  // namespace

std::string MissingComponent(const v1::JobSpec& spec,
                             const v1::Catalog& catalog) {
  for (const auto& [seam, id] : NeedsOf(spec)) {
    const bool found =
        std::any_of(catalog.entries().begin(), catalog.entries().end(),
                    [seam = seam, &id = id](const v1::ComponentEntry& entry) {
                      return entry.seam() == seam && entry.id() == id;
                    });
    if (found) continue;
    return absl::StrCat(
        absl::AsciiStrToLower(absl::StripPrefix(v1::Seam_Name(seam), "SEAM_")),
        " ", id);
  }
  return "";
}

}  // namespace quantd::scheduler
