// SPDX-License-Identifier: Apache-2.0
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/commands/paths.h"
#include "client/commands/recipe_flags.h"
#include "client/commands/usage.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/activation_rules.h"
#include "proto/spec/catalog_rules.h"
#include "proto/spec/component_text.h"
#include "proto/spec/mixed_config.h"
#include "proto/spec/presets.h"
#include "proto/spec/recipe_file.h"

namespace quantd::commands {
namespace {

constexpr int64_t kMaxFileBytes = 1 << 20;

absl::StatusOr<std::string> ReadNamedFile(const std::string& path) {
  auto text = base::ReadFile(path, kMaxFileBytes);
  if (!text.ok()) return base::AddContext(text.status(), path);
  return text;
}

absl::StatusOr<v1::Recipe> Base(const RecipeFlags& flags,
                                const v1::Catalog& catalog) {
  if (!flags.recipe_file.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadNamedFile(flags.recipe_file));
    auto recipe = spec::ParseRecipe(text);
    if (recipe.ok()) return recipe;
    return base::AddContext(recipe.status(), flags.recipe_file);
  }
  if (flags.method.empty()) {
    return UsageError("give --method PRESET or --recipe FILE");
  }
  auto recipe = spec::RecipeFromPreset(catalog, flags.method);
  if (recipe.ok()) return recipe;
  return UnknownWord("method", flags.method, spec::PresetIds(catalog));
}

// Parameters of a preset's format stay where the other format has them too.
void ChangeFormat(const std::string& format, const v1::Catalog& catalog,
                  v1::WeightFormat* weights) {
  weights->set_format(format);
  std::map<std::string, v1::Value> kept;
  const v1::ComponentEntry* entry =
      spec::FindEntry(catalog, v1::SEAM_FORMAT, format);
  if (entry != nullptr) {
    for (const v1::Parameter& parameter : entry->params()) {
      const auto value = weights->params().find(parameter.name());
      if (value != weights->params().end()) kept.insert(*value);
    }
  }
  weights->clear_params();
  weights->mutable_params()->insert(kept.begin(), kept.end());
}

void ApplyWeights(const RecipeFlags& flags, const v1::Catalog& catalog,
                  v1::Recipe* recipe) {
  v1::WeightFormat& weights = *recipe->mutable_weights();
  std::string format = flags.format;
  if (flags.bits) format = absl::StrCat("int", *flags.bits);
  if (!format.empty() && format != weights.format()) {
    ChangeFormat(format, catalog, &weights);
  }
  if (flags.group_size) weights.set_group_size(*flags.group_size);
  if (flags.asymmetric) weights.set_symmetric(false);
  if (flags.symmetric) weights.set_symmetric(true);
  if (flags.keep_head) recipe->set_quantize_lm_head(false);
  if (flags.quantize_head) recipe->set_quantize_lm_head(true);
}

// One format for all is what --bits and --format ask for, whatever mixture a
// preset stands for.
absl::Status ApplyMixed(const RecipeFlags& flags, v1::Recipe* recipe) {
  if (flags.bits || !flags.format.empty()) recipe->clear_mixed();
  if (flags.mixed.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(*recipe->mutable_mixed(), spec::ParseComponent(flags.mixed));
  return absl::OkStatus();
}

void ApplyActivations(const RecipeFlags& flags, v1::Recipe* recipe) {
  if (!flags.activations.empty()) {
    spec::SetActivations(flags.activations, recipe);
  }
  if (flags.kv_cache.empty() || flags.kv_cache == recipe->kv_cache().format()) {
    return;
  }
  recipe->mutable_kv_cache()->set_format(flags.kv_cache);
  recipe->mutable_kv_cache()->clear_params();
  if (!spec::RoundsKvCache(*recipe)) {
    recipe->mutable_kv_cache()->clear_rotate_keys();
  }
}

void ApplyCalibration(const RecipeFlags& flags, v1::Recipe* recipe) {
  if (flags.num_samples) {
    recipe->mutable_calibration()->set_num_samples(*flags.num_samples);
  }
  if (flags.sequence_length) {
    recipe->mutable_calibration()->set_sequence_length(*flags.sequence_length);
  }
  if (flags.seed) {
    recipe->mutable_calibration()->set_seed(*flags.seed);
    recipe->set_seed(*flags.seed);
  }
  if (!flags.calibration.empty()) {
    recipe->mutable_calibration()->set_dataset(flags.calibration);
  }
  if (recipe->calibration().dataset().empty()) return;
  recipe->mutable_calibration()->set_dataset(
      DataForServer(recipe->calibration().dataset()));
}

absl::Status ReplaceComponents(
    const std::vector<std::string>& lists,
    google::protobuf::RepeatedPtrField<v1::Component>* components) {
  if (lists.empty()) return absl::OkStatus();
  components->Clear();
  for (const std::string& list : lists) {
    ASSIGN_OR_RETURN(std::vector<v1::Component> parsed, ParseComponents(list));
    for (v1::Component& component : parsed) {
      *components->Add() = std::move(component);
    }
  }
  return absl::OkStatus();
}

// The short spellings of the command line, as spec::ApplySetting knows them.
std::string FullPath(const std::string& path) {
  static const auto* const kShort = new std::map<std::string, std::string>{
      {"calib.dataset", "calibration.dataset"},
      {"calib.nsamples", "calibration.num_samples"},
      {"calib.num_samples", "calibration.num_samples"},
      {"calib.seqlen", "calibration.sequence_length"},
      {"calib.sequence_length", "calibration.sequence_length"},
      {"calib.seed", "calibration.seed"}};
  const auto found = kShort->find(path);
  return found == kShort->end() ? path : found->second;
}

// "export.NAME=V" and "eval.NAME=V" go to every component of the kind that
// declares NAME.
absl::Status SetOnEach(
    absl::string_view assignment, v1::Seam seam, const v1::Catalog& catalog,
    google::protobuf::RepeatedPtrField<v1::Component>* components) {
  const size_t dot = assignment.find('.');
  const size_t equals = assignment.find('=');
  const std::string name(assignment.substr(dot + 1, equals - dot - 1));
  const v1::Value value = spec::ParseValue(assignment.substr(equals + 1));
  std::vector<std::string> known;
  bool set = false;
  for (v1::Component& component : *components) {
    const auto* entry = spec::FindEntry(catalog, seam, component.id());
    if (entry == nullptr) continue;
    for (const v1::Parameter& parameter : entry->params()) {
      known.push_back(parameter.name());
      if (parameter.name() != name) continue;
      (*component.mutable_params())[name] = value;
      set = true;
    }
  }
  if (set) return absl::OkStatus();
  return UnknownWord(
      seam == v1::SEAM_EXPORT ? "export parameter" : "task parameter", name,
      known);
}

absl::Status ApplySettings(const std::vector<std::string>& settings,
                           const v1::Catalog& catalog, v1::Recipe* recipe) {
  for (const std::string& setting : settings) {
    const size_t equals = setting.find('=');
    if (equals == std::string::npos) {
      return UsageError(
          absl::StrCat("--set ", setting, " is not written PATH=VALUE"));
    }
    if (absl::StartsWith(setting, "export.")) {
      RETURN_IF_ERROR(SetOnEach(setting, v1::SEAM_EXPORT, catalog,
                                recipe->mutable_exports()));
    } else if (absl::StartsWith(setting, "eval.")) {
      RETURN_IF_ERROR(
          SetOnEach(setting, v1::SEAM_EVAL, catalog, recipe->mutable_evals()));
    } else {
      RETURN_IF_ERROR(
          spec::ApplySetting(absl::StrCat(FullPath(setting.substr(0, equals)),
                                          setting.substr(equals)),
                             recipe));
    }
  }
  return absl::OkStatus();
}

v1::Value FitValue(const v1::Parameter& parameter, const v1::Value& value) {
  v1::Value fitted = value;
  if (parameter.type() == v1::PARAMETER_TYPE_DOUBLE && value.has_int_value()) {
    fitted.set_double_value(static_cast<double>(value.int_value()));
  }
  if (parameter.type() != v1::PARAMETER_TYPE_STRING) return fitted;
  // A word that looks like a number or like true is still a word.
  if (!value.has_string_value()) {
    fitted.set_string_value(spec::ValueText(value));
  }
  if (parameter.choices().empty() &&
      parameter.names() == v1::SEAM_UNSPECIFIED) {
    fitted.set_string_value(DataForServer(fitted.string_value()));
  }
  return fitted;
}

}  // namespace

absl::StatusOr<std::vector<v1::Component>> ParseComponents(
    absl::string_view text) {
  std::vector<std::string> pieces;
  for (const absl::string_view piece : absl::StrSplit(text, ',')) {
    const size_t equals = piece.find('=');
    const bool goes_on =
        equals != absl::string_view::npos && piece.find(':') > equals;
    if (goes_on && !pieces.empty()) {
      absl::StrAppend(&pieces.back(), ",", piece);
    } else {
      pieces.emplace_back(piece);
    }
  }
  std::vector<v1::Component> components;
  for (const std::string& piece : pieces) {
    ASSIGN_OR_RETURN(v1::Component component, spec::ParseComponent(piece));
    components.push_back(std::move(component));
  }
  return components;
}

void FitToCatalog(const v1::Catalog& catalog, v1::Seam seam,
                  v1::Component* component) {
  const auto* entry = spec::FindEntry(catalog, seam, component->id());
  if (entry == nullptr) return;
  for (const v1::Parameter& parameter : entry->params()) {
    const auto value = component->mutable_params()->find(parameter.name());
    if (value == component->mutable_params()->end()) continue;
    value->second = FitValue(parameter, value->second);
  }
}

absl::StatusOr<v1::Recipe> BuildRecipe(const RecipeFlags& flags,
                                       const v1::Catalog& catalog) {
  ASSIGN_OR_RETURN(v1::Recipe recipe, Base(flags, catalog));
  if (!flags.config_file.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadNamedFile(flags.config_file));
    const absl::Status applied = spec::ApplyMixedConfig(text, &recipe);
    if (!applied.ok()) return base::AddContext(applied, flags.config_file);
  }
  ApplyWeights(flags, catalog, &recipe);
  RETURN_IF_ERROR(ApplyMixed(flags, &recipe));
  ApplyActivations(flags, &recipe);
  RETURN_IF_ERROR(ReplaceComponents(flags.evals, recipe.mutable_evals()));
  RETURN_IF_ERROR(ReplaceComponents(flags.exports, recipe.mutable_exports()));
  RETURN_IF_ERROR(ApplySettings(flags.settings, catalog, &recipe));
  ApplyCalibration(flags, &recipe);
  for (auto& transform : *recipe.mutable_transforms()) {
    FitToCatalog(catalog, v1::SEAM_TRANSFORM, &transform);
  }
  FitToCatalog(catalog, v1::SEAM_METHOD, recipe.mutable_method());
  if (recipe.has_mixed()) {
    FitToCatalog(catalog, v1::SEAM_MIXED, recipe.mutable_mixed());
  }
  for (auto& layout : *recipe.mutable_exports()) {
    FitToCatalog(catalog, v1::SEAM_EXPORT, &layout);
  }
  for (auto& task : *recipe.mutable_evals()) {
    FitToCatalog(catalog, v1::SEAM_EVAL, &task);
  }
  return recipe;
}

}  // namespace quantd::commands
