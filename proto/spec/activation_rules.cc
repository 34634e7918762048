// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/activation_rules.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/base/status_macros.h"
#include "proto/spec/catalog_rules.h"
#include "proto/spec/nearest.h"
#include "proto/spec/params.h"
#include "proto/spec/recipe_rules.h"

namespace quantd::spec {
namespace {

constexpr char kDynamic[] = "dynamic";
constexpr char kStatic[] = "static";
constexpr char kRange[] = "activation_rounding.range";
// What formats without zero points ask of weights, and so of activations.
constexpr char kSymmetric[] = "symmetric";

bool Provides(const v1::ComponentEntry& entry, absl::string_view property) {
  return std::find(entry.provides().begin(), entry.provides().end(),
                   property) != entry.provides().end();
}

std::vector<std::string> FormatsThatProvide(const v1::Catalog& catalog,
                                            absl::string_view property) {
  std::vector<std::string> ids;
  for (const v1::ComponentEntry& entry : catalog.entries()) {
    if (entry.seam() == v1::SEAM_FORMAT && Provides(entry, property)) {
      ids.push_back(entry.id());
    }
  }
  return ids;
}

absl::StatusOr<Params> Resolve(
    const v1::ComponentEntry& entry,
    const google::protobuf::Map<std::string, v1::Value>& params) {
  v1::Component component;
  component.set_id(entry.id());
  *component.mutable_params() = params;
  return Params::Resolve(component, entry);
}

// A place of the recipe that names a format for values that are rounded while
// the model runs.
struct Use {
  std::string field;
  std::string format;
  // "activation", "KV-cache".
  std::string kind;
  const char* property = "";
  bool is_static = false;
  bool asymmetric = false;
  std::string params_field;
  google::protobuf::Map<std::string, v1::Value> params;
};

class Check {
 public:
  Check(const v1::Catalog& catalog, const std::string& prefix)
      : catalog_(catalog), prefix_(prefix) {}

  void Add(const Use& use) {
    if (LeavesAlone(use.format)) return;
    const v1::ComponentEntry* entry =
        FindEntry(catalog_, v1::SEAM_FORMAT, use.format);
    if (entry == nullptr || !Provides(*entry, use.property)) {
      Unknown(use, entry != nullptr);
      return;
    }
    if (use.is_static && !Provides(*entry, kStaticActivationsProperty)) {
      Violate(kRange, kStatic, "COMBINATION_ILLEGAL",
              absl::StrCat("static ranges with ", use.format,
                           ": its scales belong to blocks of one token"),
              absl::StrCat("use range=dynamic, or ",
                           List(kStaticActivationsProperty)));
    }
    const absl::StatusOr<Params> params = Resolve(*entry, use.params);
    if (!params.ok()) {
      Violate(use.params_field, "", "PARAMETER_INVALID",
              params.status().message(), "");
    } else if (use.asymmetric) {
      Asymmetric(use, *entry, *params);
    }
  }

  std::vector<Violation> Take() { return std::move(violations_); }

 private:
  void Violate(absl::string_view field, absl::string_view value,
               absl::string_view reason, absl::string_view description,
               absl::string_view suggestion) {
    violations_.push_back({absl::StrCat(prefix_, field), Shortened(value),
                           std::string(reason), std::string(description),
                           std::string(suggestion)});
  }

  std::string List(absl::string_view property) const {
    return absl::StrJoin(FormatsThatProvide(catalog_, property), ", ");
  }

  void Unknown(const Use& use, bool is_format) {
    std::vector<std::string> ids = FormatsThatProvide(catalog_, use.property);
    ids.push_back(kPlainActivations);
    Violate(use.field, use.format, "COMPONENT_UNKNOWN",
            is_format ? absl::StrCat("is a number format of weights and no ",
                                     use.kind, " format")
                      : absl::StrCat("is no ", use.kind,
                                     " format of this server's workers"),
            absl::StrCat("the nearest are ",
                         absl::StrJoin(NearestNames(use.format, ids), ", ")));
  }

  void Asymmetric(const Use& use, const v1::ComponentEntry& entry,
                  const Params& params) {
    for (const v1::Requirement& requirement : entry.requirements()) {
      if (requirement.property() != kSymmetric ||
          !Applies(requirement, params.values())) {
        continue;
      }
      Violate(use.field, use.format, "COMBINATION_ILLEGAL",
              absl::StrCat("with zero points: ", requirement.why()),
              "leave asymmetric out, or use an integer format");
      return;
    }
  }

  const v1::Catalog& catalog_;
  const std::string prefix_;
  std::vector<Violation> violations_;
};

Use ActivationUse(const v1::Recipe& recipe, std::string field,
                  std::string format) {
  const v1::ActivationRounding& rounding = recipe.activation_rounding();
  Use use{.field = std::move(field),
          .format = std::move(format),
          .kind = "activation",
          .property = kActivationsProperty,
          .is_static = rounding.range() == kStatic,
          .asymmetric = rounding.asymmetric(),
          .params_field = "activation_rounding.params",
          .params = {}};
  // Of another format's parameters only the defaults are meant.
  if (use.format == recipe.activations()) use.params = rounding.params();
  return use;
}

Use KvCacheUse(const v1::KvCache& cache) {
  return {.field = "kv_cache.format",
          .format = cache.format(),
          .kind = "KV-cache",
          .property = kKvCacheProperty,
          .is_static = false,
          .asymmetric = cache.asymmetric(),
          .params_field = "kv_cache.params",
          .params = cache.params()};
}

// Gathers what is wrong with single fields.
class Fields {
 public:
  explicit Fields(const std::string& prefix) : prefix_(prefix) {}

  void Add(absl::string_view field, absl::string_view value,
           absl::string_view reason, absl::string_view description,
           absl::string_view suggestion) {
    violations_.push_back({absl::StrCat(prefix_, field), Shortened(value),
                           std::string(reason), std::string(description),
                           std::string(suggestion)});
  }

  // 0 stands for a default; NaN is in no range.
  void Number(absl::string_view field, double value, double low, double high) {
    if (value == 0 || (value >= low && value <= high)) return;
    Add(field, absl::StrCat(value), "FIELD_OUT_OF_RANGE", "is out of range",
        absl::StrCat("it is ", low, " to ", high));
  }

  std::vector<Violation> Take() { return std::move(violations_); }

 private:
  const std::string prefix_;
  std::vector<Violation> violations_;
};

// Below this a grid covers next to nothing.
constexpr double kLeastClipRatio = 0.01;

absl::Status ResolveParams(
    const v1::Catalog& catalog, const std::string& format,
    google::protobuf::Map<std::string, v1::Value>* params) {
  const v1::ComponentEntry* entry = FindEntry(catalog, v1::SEAM_FORMAT, format);
  if (entry == nullptr) {
    return UnknownName("number format", format,
                       FormatsThatProvide(catalog, kActivationsProperty));
  }
  ASSIGN_OR_RETURN(const Params resolved, Resolve(*entry, *params));
  params->clear();
  params->insert(resolved.values().begin(), resolved.values().end());
  return absl::OkStatus();
}

}  // namespace

bool LeavesAlone(absl::string_view format) {
  return format.empty() || format == kPlainActivations;
}

bool RoundsActivations(const v1::Recipe& recipe) {
  return !LeavesAlone(recipe.activations()) ||
         std::any_of(recipe.overrides().begin(), recipe.overrides().end(),
                     [](const v1::Override& row) {
                       return !row.skip() && !LeavesAlone(row.aq());
                     });
}

bool RoundsKvCache(const v1::Recipe& recipe) {
  return !LeavesAlone(recipe.kv_cache().format());
}

void SetActivations(absl::string_view format, v1::Recipe* recipe) {
  if (recipe->activations() == format) return;
  recipe->set_activations(std::string(format));
  recipe->mutable_activation_rounding()->clear_params();
}

std::vector<Violation> CheckActivationFields(const v1::Recipe& recipe,
                                             const std::string& prefix) {
  Fields check(prefix);
  const v1::ActivationRounding& rounding = recipe.activation_rounding();
  const bool is_static = rounding.range() == kStatic;
  if (!rounding.range().empty() && rounding.range() != kDynamic && !is_static) {
    check.Add(kRange, rounding.range(), "FIELD_INVALID",
              "is not one of the allowed words", "they are dynamic, static");
  }
  check.Number("activation_rounding.clip_ratio", rounding.clip_ratio(),
               kLeastClipRatio, 1);
  check.Number("activation_rounding.percentile", rounding.percentile(), 50,
               100);
  if (rounding.percentile() != 0 && !is_static) {
    check.Add("activation_rounding.percentile",
              absl::StrCat(rounding.percentile()), "FIELD_CONFLICT",
              "is of the calibration tokens, and dynamic ranges look at none",
              "use range=static, or leave it out");
  }
  if (is_static && RoundsActivations(recipe) && !recipe.has_calibration()) {
    check.Add("calibration", "", "FIELD_MISSING",
              "is missing, and static ranges are gathered from it",
              "name a dataset, or use activation_rounding.range dynamic");
  }
  const v1::KvCache& cache = recipe.kv_cache();
  if (cache.rotate_keys() && !RoundsKvCache(recipe)) {
    check.Add("kv_cache.rotate_keys", "true", "FIELD_CONFLICT",
              "changes only how keys are rounded, and no format is given for "
              "them",
              "give kv_cache.format, int4 say, or leave it out");
  }
  check.Number("kv_cache.clip_ratio", cache.clip_ratio(), kLeastClipRatio, 1);
  if (cache.group_size() < -1 || cache.group_size() > kMaxGroupSize) {
    check.Add(
        "kv_cache.group_size", absl::StrCat(cache.group_size()),
        "FIELD_OUT_OF_RANGE", "is no group size",
        absl::StrCat("it is -1 (the whole head) or 1 to ", kMaxGroupSize));
  }
  return check.Take();
}

std::vector<Violation> CheckActivationFormats(const v1::Recipe& recipe,
                                              const v1::Catalog& catalog,
                                              const std::string& prefix) {
  Check check(catalog, prefix);
  check.Add(ActivationUse(recipe, "activations", recipe.activations()));
  for (int i = 0; i < recipe.overrides_size(); ++i) {
    check.Add(ActivationUse(recipe, absl::StrCat("overrides[", i, "].aq"),
                            recipe.overrides(i).aq()));
  }
  check.Add(KvCacheUse(recipe.kv_cache()));
  return check.Take();
}

void FillActivationDefaults(v1::Recipe* recipe) {
  if (recipe->activations().empty()) {
    recipe->set_activations(kPlainActivations);
  }
  if (!RoundsActivations(*recipe)) {
    recipe->clear_activation_rounding();
  } else {
    v1::ActivationRounding* rounding = recipe->mutable_activation_rounding();
    if (rounding->range().empty()) rounding->set_range(kDynamic);
    if (rounding->clip_ratio() == 0) rounding->set_clip_ratio(1);
    if (LeavesAlone(recipe->activations())) rounding->clear_params();
    if (rounding->range() == kStatic && rounding->percentile() == 0) {
      rounding->set_percentile(100);
    }
  }
  if (!RoundsKvCache(*recipe)) {
    recipe->clear_kv_cache();
    return;
  }
  v1::KvCache* cache = recipe->mutable_kv_cache();
  if (cache->group_size() == 0) cache->set_group_size(-1);
  if (cache->clip_ratio() == 0) cache->set_clip_ratio(1);
}

absl::Status ResolveActivations(const v1::Catalog& catalog,
                                v1::Recipe* recipe) {
  if (!LeavesAlone(recipe->activations())) {
    RETURN_IF_ERROR(
        ResolveParams(catalog, recipe->activations(),
                      recipe->mutable_activation_rounding()->mutable_params()));
  }
  if (!RoundsKvCache(*recipe)) return absl::OkStatus();
  return ResolveParams(catalog, recipe->kv_cache().format(),
                       recipe->mutable_kv_cache()->mutable_params());
}

}  // namespace quantd::spec
