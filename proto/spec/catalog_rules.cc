// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/catalog_rules.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "proto/base/status_macros.h"
#include "proto/spec/activation_rules.h"
#include "proto/spec/canonical.h"
#include "proto/spec/component_text.h"
#include "proto/spec/module_components.h"
#include "proto/spec/nearest.h"
#include "proto/spec/params.h"
#include "proto/spec/recipe_rules.h"

namespace quantd::spec {
namespace {

constexpr char kSymmetric[] = "symmetric";
constexpr char kAsymmetric[] = "asymmetric";
constexpr char kGrouped[] = "group_size>0";
// A parameter of methods that draw numbers.
constexpr char kSeed[] = "seed";

absl::string_view SeamWord(v1::Seam seam) {
  switch (seam) {
    case v1::SEAM_TRANSFORM:
      return "transform";
    case v1::SEAM_METHOD:
      return "method";
    case v1::SEAM_FORMAT:
      return "number format";
    case v1::SEAM_EXPORT:
      return "export";
    case v1::SEAM_EVAL:
      return "task";
    case v1::SEAM_MIXED:
      return "mixed-precision strategy";
    default:
      return "component";
  }
}

std::vector<std::string> IdsOf(const v1::Catalog& catalog, v1::Seam seam) {
  std::vector<std::string> ids;
  for (const v1::ComponentEntry& entry : catalog.entries()) {
    if (entry.seam() == seam) ids.push_back(entry.id());
  }
  return ids;
}

bool Provides(const v1::ComponentEntry& entry, absl::string_view property) {
  return std::find(entry.provides().begin(), entry.provides().end(),
                   property) != entry.provides().end();
}

// A component that the recipe chose, where it stands and what it is.
struct Choice {
  std::string field;
  const v1::ComponentEntry* entry = nullptr;
  std::map<std::string, v1::Value> params;
};

// A number format with its parameters, as other components are named.
v1::Component FormatComponent(const v1::WeightFormat& weights) {
  v1::Component component;
  component.set_id(weights.format());
  *component.mutable_params() = weights.params();
  return component;
}

class CatalogCheck {
 public:
  CatalogCheck(const v1::Recipe& recipe, const v1::Catalog& catalog,
               std::string prefix)
      : recipe_(recipe), catalog_(catalog), prefix_(std::move(prefix)) {}

  std::vector<Violation> Run() {
    List(v1::SEAM_TRANSFORM, "transforms", recipe_.transforms());
    Add(v1::SEAM_METHOD, "method", recipe_.method());
    AddWeights();
    AddMixed();
    Overrides();
    List(v1::SEAM_EXPORT, "exports", recipe_.exports());
    List(v1::SEAM_EVAL, "evals", recipe_.evals());
    for (Violation& violation :
         CheckActivationFormats(recipe_, catalog_, prefix_)) {
      violations_.push_back(std::move(violation));
    }
    CheckRequirements();
    CheckTransformOrder();
    return std::move(violations_);
  }

  std::vector<Violation> RunEvals(
      const google::protobuf::RepeatedPtrField<v1::Component>& evals) {
    List(v1::SEAM_EVAL, "evals", evals);
    return std::move(violations_);
  }

 private:
  void Violate(absl::string_view field, absl::string_view value,
               absl::string_view reason, absl::string_view description,
               absl::string_view suggestion) {
    violations_.push_back({absl::StrCat(prefix_, field), Shortened(value),
                           std::string(reason), std::string(description),
                           std::string(suggestion)});
  }

  const v1::ComponentEntry* Find(v1::Seam seam, absl::string_view field,
                                 const std::string& id) {
    const v1::ComponentEntry* entry = FindEntry(catalog_, seam, id);
    if (entry != nullptr || id.empty()) return entry;
    const std::vector<std::string> ids = IdsOf(catalog_, seam);
    Violate(field, id, "COMPONENT_UNKNOWN",
            absl::StrCat("is no ", SeamWord(seam), " of this server's workers"),
            ids.empty()
                ? "they have none"
                : absl::StrCat("the nearest are ",
                               absl::StrJoin(NearestNames(id, ids), ", ")));
    return nullptr;
  }

  void Add(v1::Seam seam, const std::string& field,
           const v1::Component& component) {
    const v1::ComponentEntry* entry =
        Find(seam, absl::StrCat(field, ".id"), component.id());
    if (entry == nullptr) return;
    const absl::StatusOr<Params> params = Params::Resolve(component, *entry);
    if (!params.ok()) {
      Violate(absl::StrCat(field, ".params"), "", "PARAMETER_INVALID",
              params.status().message(), "");
      return;
    }
    choices_[seam].push_back({field, entry, params->values()});
  }

  void List(v1::Seam seam, const std::string& field,
            const google::protobuf::RepeatedPtrField<v1::Component>& list) {
    for (int i = 0; i < list.size(); ++i) {
      Add(seam, absl::StrCat(field, "[", i, "]"), list[i]);
    }
  }

  void AddWeights() {
    const v1::WeightFormat& weights = recipe_.weights();
    const v1::ComponentEntry* entry =
        Find(v1::SEAM_FORMAT, "weights.format", weights.format());
    if (entry == nullptr) return;
    const absl::StatusOr<Params> params =
        Params::Resolve(FormatComponent(weights), *entry);
    if (!params.ok()) {
      Violate("weights.params", "", "PARAMETER_INVALID",
              params.status().message(), "");
      return;
    }
    choices_[v1::SEAM_FORMAT].push_back(
        {"weights.format", entry, params->values()});
  }

  void Overrides() {
    for (int i = 0; i < recipe_.overrides_size(); ++i) {
      const v1::Override& row = recipe_.overrides(i);
      const std::string field = absl::StrCat("overrides[", i, "]");
      if (!row.wq().empty()) {
        AddNamed(v1::SEAM_FORMAT, field + ".wq", row.wq());
      }
      if (!row.extra().empty()) Extra(field + ".extra", row);
    }
  }

  void Extra(const std::string& field, const v1::Override& row) {
    const auto components =
        ComponentsWith(recipe_, {row.extra().begin(), row.extra().end()});
    if (!components.ok()) {
      Violate(field, "", "PARAMETER_INVALID", components.status().message(),
              "");
      return;
    }
    ParamsOf(v1::SEAM_METHOD, field, components->method);
    for (const v1::Component& transform : components->transforms) {
      ParamsOf(v1::SEAM_TRANSFORM, field, transform);
      if (IsAmong(row, transform) && ActsOnTheWholeModel(transform)) {
        Violate(field, "", "PARAMETER_INVALID",
                absl::StrCat(transform.id(),
                             " acts on the whole model and has no parameters "
                             "of single modules"),
                "set them in transforms");
      }
    }
  }

  // Whether `row` has parameters for `transform`.
  static bool IsAmong(const v1::Override& row, const v1::Component& transform) {
    const std::string prefix = transform.id() + ".";
    return std::any_of(
        row.extra().begin(), row.extra().end(),
        [&](const auto& item) { return absl::StartsWith(item.first, prefix); });
  }

  bool ActsOnTheWholeModel(const v1::Component& transform) const {
    const v1::ComponentEntry* entry =
        FindEntry(catalog_, v1::SEAM_TRANSFORM, transform.id());
    return entry != nullptr && Provides(*entry, kWholeModelProperty);
  }

  // What is wrong with the parameters of a component that is there.
  void ParamsOf(v1::Seam seam, const std::string& field,
                const v1::Component& component) {
    const v1::ComponentEntry* entry = FindEntry(catalog_, seam, component.id());
    if (entry == nullptr) return;
    const absl::StatusOr<Params> params = Params::Resolve(component, *entry);
    if (params.ok()) return;
    Violate(field, "", "PARAMETER_INVALID", params.status().message(), "");
  }

  // A strategy, and what its parameters name.
  void AddMixed() {
    if (!recipe_.has_mixed()) return;
    Add(v1::SEAM_MIXED, "mixed", recipe_.mixed());
    const auto added = choices_.find(v1::SEAM_MIXED);
    if (added == choices_.end()) return;
    const Choice& strategy = added->second.front();
    for (const v1::Parameter& parameter : strategy.entry->params()) {
      if (parameter.names() == v1::SEAM_UNSPECIFIED) continue;
      const v1::Value& names = strategy.params.at(parameter.name());
      const std::string field = absl::StrCat("mixed.params.", parameter.name());
      for (const absl::string_view id :
           absl::StrSplit(names.string_value(), '+')) {
        AddNamed(parameter.names(), field, std::string(id));
      }
    }
  }

  void AddNamed(v1::Seam seam, const std::string& field,
                const std::string& id) {
    if (id.empty()) {
      Violate(field, "", "COMPONENT_UNKNOWN",
              absl::StrCat("names no ", SeamWord(seam)),
              "give ids joined by +");
      return;
    }
    const v1::ComponentEntry* entry = Find(seam, field, id);
    if (entry != nullptr) choices_[seam].push_back({field, entry, {}});
  }

  // What changes the whole model comes before what is fitted to its weights.
  void CheckTransformOrder() {
    const auto chosen = choices_.find(v1::SEAM_TRANSFORM);
    if (chosen == choices_.end()) return;
    std::string fitted;
    for (const Choice& choice : chosen->second) {
      const std::string& id = choice.entry->id();
      if (!Provides(*choice.entry, kWholeModelProperty)) {
        fitted = id;
      } else if (!fitted.empty()) {
        Violate(choice.field, "", "TRANSFORM_ORDER",
                absl::StrCat(id, " after ", fitted, ": ", fitted,
                             " is fitted to the weights that ", id,
                             " would change"),
                absl::StrCat("put ", id, " first"));
      }
    }
  }

  // What the recipe has where `requirement` is not met; empty where it is.
  std::vector<std::string> Missing(const v1::Requirement& requirement) const {
    const v1::WeightFormat& weights = recipe_.weights();
    if (requirement.seam() == v1::SEAM_FORMAT) {
      if (requirement.property() == kSymmetric) {
        if (weights.symmetric()) return {};
        return {"asymmetric weights"};
      }
      if (requirement.property() == kAsymmetric) {
        if (!weights.symmetric()) return {};
        return {"symmetric weights"};
      }
      if (requirement.property() == kGrouped) return PerRow();
    }
    std::vector<std::string> missing;
    const auto chosen = choices_.find(requirement.seam());
    if (chosen == choices_.end()) return missing;
    for (const Choice& choice : chosen->second) {
      if (Provides(*choice.entry, requirement.property())) continue;
      if (std::find(missing.begin(), missing.end(), choice.entry->id()) ==
          missing.end()) {
        missing.push_back(choice.entry->id());
      }
    }
    return missing;
  }

  std::vector<std::string> PerRow() const {
    if (recipe_.weights().group_size() <= 0) return {"one group per row"};
    for (const v1::Override& row : recipe_.overrides()) {
      if (!row.skip() && row.has_group_size() && row.group_size() <= 0) {
        return {
            absl::StrCat("one group per row (", Shortened(row.pattern()), ")")};
      }
    }
    return {};
  }

  void CheckRequirements() {
    for (const auto& [seam, chosen] : choices_) {
      for (const Choice& choice : chosen) {
        for (const v1::Requirement& requirement :
             choice.entry->requirements()) {
          if (!Applies(requirement, choice.params)) continue;
          for (const std::string& other : Missing(requirement)) {
            Violate(choice.field, "", "COMBINATION_ILLEGAL",
                    absl::StrCat(Subject(choice, requirement), " with ", other,
                                 ": ", requirement.why()),
                    requirement.suggestion());
          }
        }
      }
    }
  }

  static std::string Subject(const Choice& choice,
                             const v1::Requirement& requirement) {
    if (requirement.when().empty()) return choice.entry->id();
    return absl::StrCat(choice.entry->id(), " (", requirement.when(), ")");
  }

  const v1::Recipe& recipe_;
  const v1::Catalog& catalog_;
  const std::string prefix_;
  std::map<v1::Seam, std::vector<Choice>> choices_;
  std::vector<Violation> violations_;
};

absl::Status ResolveComponent(const v1::Catalog& catalog, v1::Seam seam,
                              v1::Component* component) {
  const v1::ComponentEntry* entry = FindEntry(catalog, seam, component->id());
  if (entry == nullptr) {
    return UnknownName(SeamWord(seam), component->id(), IdsOf(catalog, seam));
  }
  ASSIGN_OR_RETURN(const Params params, Params::Resolve(*component, *entry));
  component->clear_params();
  component->mutable_params()->insert(params.values().begin(),
                                      params.values().end());
  return absl::OkStatus();
}

// The recipe's seed for a method that draws numbers and was given none of its
// own; 0 leaves the method's default, which is a published one.
void SeedMethod(const v1::Catalog& catalog, v1::Recipe* recipe) {
  v1::Component& method = *recipe->mutable_method();
  const v1::ComponentEntry* entry =
      FindEntry(catalog, v1::SEAM_METHOD, method.id());
  if (recipe->seed() == 0 || entry == nullptr) return;
  const bool draws = std::any_of(
      entry->params().begin(), entry->params().end(),
      [](const v1::Parameter& param) { return param.name() == kSeed; });
  if (!draws || method.params().contains(kSeed)) return;
  // As wide as such parameters are.
  const auto seed = static_cast<uint32_t>(recipe->seed());
  (*method.mutable_params())[kSeed].set_int_value(seed);
}

}  // namespace

bool Applies(const v1::Requirement& requirement,
             const std::map<std::string, v1::Value>& params) {
  if (requirement.when().empty()) return true;
  const size_t equals = requirement.when().find('=');
  const auto param = params.find(requirement.when().substr(0, equals));
  if (equals == std::string::npos || param == params.end()) return false;
  return ValueText(param->second) == requirement.when().substr(equals + 1);
}

const v1::ComponentEntry* FindEntry(const v1::Catalog& catalog, v1::Seam seam,
                                    absl::string_view id) {
  for (const v1::ComponentEntry& entry : catalog.entries()) {
    if (entry.seam() == seam && entry.id() == id) return &entry;
  }
  return nullptr;
}

std::vector<Violation> CheckRecipe(const v1::Recipe& recipe,
                                   const v1::Catalog& catalog,
                                   const std::string& prefix) {
  return CatalogCheck(recipe, catalog, prefix).Run();
}

std::vector<Violation> CheckJobSpec(const v1::JobSpec& spec,
                                    const v1::Catalog& catalog) {
  if (spec.has_quantize()) {
    return CheckRecipe(spec.quantize().recipe(), catalog, "quantize.recipe.");
  }
  return CatalogCheck(v1::Recipe(), catalog, "evaluate.")
      .RunEvals(spec.evaluate().evals());
}

absl::Status ValidateJob(const v1::JobSpec& spec, const v1::Catalog& catalog) {
  std::vector<Violation> violations = CheckJobSpec(spec);
  // The bounds come first: only a bounded recipe is looked at in depth.
  const bool too_big = std::any_of(violations.begin(), violations.end(),
                                   [](const Violation& violation) {
                                     return violation.reason == "TOO_MANY";
                                   });
  if (!too_big) {
    std::vector<Violation> more = CheckJobSpec(spec, catalog);
    violations.insert(violations.end(), more.begin(), more.end());
  }
  return ToStatus(violations);
}

absl::StatusOr<v1::Recipe> ResolveRecipe(const v1::Recipe& recipe,
                                         const v1::Catalog& catalog) {
  v1::Recipe resolved = WithDefaults(recipe);
  for (v1::Component& component : *resolved.mutable_transforms()) {
    RETURN_IF_ERROR(ResolveComponent(catalog, v1::SEAM_TRANSFORM, &component));
  }
  SeedMethod(catalog, &resolved);
  RETURN_IF_ERROR(
      ResolveComponent(catalog, v1::SEAM_METHOD, resolved.mutable_method()));
  v1::Component format = FormatComponent(resolved.weights());
  RETURN_IF_ERROR(ResolveComponent(catalog, v1::SEAM_FORMAT, &format));
  *resolved.mutable_weights()->mutable_params() = format.params();
  RETURN_IF_ERROR(ResolveActivations(catalog, &resolved));
  if (resolved.has_mixed()) {
    RETURN_IF_ERROR(
        ResolveComponent(catalog, v1::SEAM_MIXED, resolved.mutable_mixed()));
  }
  for (v1::Component& component : *resolved.mutable_exports()) {
    RETURN_IF_ERROR(ResolveComponent(catalog, v1::SEAM_EXPORT, &component));
  }
  for (v1::Component& component : *resolved.mutable_evals()) {
    RETURN_IF_ERROR(ResolveComponent(catalog, v1::SEAM_EVAL, &component));
  }
  return resolved;
}

}  // namespace quantd::spec
