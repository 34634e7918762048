// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/mixed_config.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/base/status_macros.h"
#include "proto/spec/activation_rules.h"
#include "proto/spec/document.h"
#include "proto/spec/message_json.h"
#include "proto/spec/module_components.h"
#include "proto/spec/nearest.h"
#include "proto/spec/violation.h"

namespace quantd::spec {
namespace {

using nlohmann::json;

void CheckKeys(const json& object, const std::string& path,
               const std::vector<std::string>& known,
               std::vector<Violation>* violations) {
  if (!object.is_object()) {
    violations->push_back(
        {path, "", "FIELD_TYPE", "an object is wanted here", ""});
    return;
  }
  for (const auto& [key, value] : object.items()) {
    bool found = false;
    for (const std::string& name : known) found = found || name == key;
    if (found) continue;
    violations->push_back(
        {path, Shortened(key), "FIELD_UNKNOWN", "is no known key",
         absl::StrCat("the nearest are ",
                      absl::StrJoin(NearestNames(key, known), ", "))});
  }
}

// "default" has the fields of an override but pattern and skip.
void ApplyDefault(const json& value, v1::Recipe* recipe,
                  std::vector<Violation>* violations) {
  CheckKeys(value, "default", {"wq", "aq", "group_size", "extra"}, violations);
  if (!violations->empty()) return;
  v1::Override row;
  FromJson(value, "default", &row, violations);
  if (!row.wq().empty()) recipe->mutable_weights()->set_format(row.wq());
  if (!row.aq().empty()) SetActivations(row.aq(), recipe);
  if (row.has_group_size()) {
    recipe->mutable_weights()->set_group_size(row.group_size());
  }
  const auto components =
      ComponentsWith(*recipe, {row.extra().begin(), row.extra().end()});
  if (!components.ok()) {
    violations->push_back({"default.extra", "", "PARAMETER_INVALID",
                           std::string(components.status().message()), ""});
    return;
  }
  *recipe->mutable_method() = components->method;
  recipe->mutable_transforms()->Assign(components->transforms.begin(),
                                       components->transforms.end());
}

}  // namespace

absl::Status ApplyMixedConfig(absl::string_view text, v1::Recipe* recipe) {
  ASSIGN_OR_RETURN(const json document, ParseDocument(text));
  std::vector<Violation> violations;
  CheckKeys(document, "(file)", {"default", "overrides"}, &violations);
  v1::Recipe changed = *recipe;
  // The file says the formats; nothing is left to be chosen.
  changed.clear_mixed();
  if (violations.empty()) {
    if (document.contains("default")) {
      ApplyDefault(document["default"], &changed, &violations);
    }
    if (document.contains("overrides")) {
      FromJson(json{{"overrides", document["overrides"]}}, "", &changed,
               &violations);
    }
  }
  RETURN_IF_ERROR(ToStatus(violations, "the mixed-precision file"));
  *recipe = std::move(changed);
  return absl::OkStatus();
}

std::string MixedConfigText(const v1::Recipe& recipe) {
  v1::Override row;
  row.set_wq(recipe.weights().format());
  row.set_aq(recipe.activations());
  row.set_group_size(recipe.weights().group_size());
  row.mutable_extra()->insert(recipe.method().params().begin(),
                              recipe.method().params().end());
  json overrides = json::array();
  for (const v1::Override& item : recipe.overrides()) {
    overrides.push_back(ToJson(item));
  }
  return json{{"default", ToJson(row)}, {"overrides", std::move(overrides)}}
             .dump(2, ' ', true, json::error_handler_t::replace) +
         "\n";
}

}  // namespace quantd::spec
