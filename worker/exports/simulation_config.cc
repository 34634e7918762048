// SPDX-License-Identifier: Apache-2.0
#include "worker/exports/simulation_config.h"

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/activation_rules.h"
#include "proto/spec/glob.h"
#include "proto/spec/message_json.h"
#include "proto/spec/violation.h"
#include "worker/formats/row_rounding.h"

namespace quantd::exports {
namespace {

using nlohmann::json;

constexpr int kSchema = 1;
constexpr char kSchemaKey[] = "schema";
// The part of a recipe that says how activations and keys and values are
// rounded, module by module.
constexpr char kRecipeKey[] = "recipe";
// Module to [low, high].
constexpr char kRangesKey[] = "ranges";
// Module to the seed of the rotation behind which its inputs are rounded.
constexpr char kRotationsKey[] = "rotations";

absl::Status Invalid(absl::string_view what) {
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "SIMULATION_CONFIG",
      absl::StrCat(kSimulationKey, " of the checkpoint's config.json ", what));
}

v1::Recipe RunningPart(const ExportSource& source) {
  const v1::Recipe& recipe = source.recipe;
  v1::Recipe part;
  part.set_activations(recipe.activations());
  if (recipe.has_activation_rounding()) {
    *part.mutable_activation_rounding() = recipe.activation_rounding();
  }
  if (recipe.has_kv_cache()) *part.mutable_kv_cache() = recipe.kv_cache();
  for (const v1::Override& row : recipe.overrides()) {
    v1::Override* kept = part.add_overrides();
    kept->set_pattern(row.pattern());
    kept->set_aq(row.aq());
    kept->set_skip(row.skip());
  }
  if (!recipe.quantize_lm_head()) {
    v1::Override* head = part.add_overrides();
    head->set_pattern(source.model.HeadShape().name);
    head->set_skip(true);
  }
  return part;
}

using Ranges = std::map<std::string, v1::InputRange>;

absl::StatusOr<Ranges> ReadRanges(const json& value) {
  if (!value.is_object()) return Invalid("has no ranges");
  Ranges ranges;
  for (const auto& [module, ends] : value.items()) {
    if (!ends.is_array() || ends.size() != 2 || !ends[0].is_number() ||
        !ends[1].is_number()) {
      return Invalid("has a range that is not two numbers");
    }
    v1::InputRange& range = ranges[module];
    range.set_low(ends[0].get<double>());
    range.set_high(ends[1].get<double>());
    const bool finite = std::isfinite(static_cast<float>(range.low())) &&
                        std::isfinite(static_cast<float>(range.high()));
    if (!finite) return Invalid("has a range that is not finite");
  }
  return ranges;
}

absl::StatusOr<v1::Recipe> ReadRecipe(const json& value) {
  v1::Recipe recipe;
  std::vector<spec::Violation> violations;
  spec::FromJson(value, "", &recipe, &violations);
  if (violations.empty()) {
    violations = spec::CheckActivationFields(recipe, "");
    // What was gathered from calibration stands in the ranges.
    std::erase_if(violations, [](const spec::Violation& violation) {
      return violation.field == "calibration";
    });
  }
  if (violations.empty()) return recipe;
  return Invalid(
      absl::StrCat("cannot be right: ", spec::ToSentence(violations.front())));
}

using Seeds = std::map<std::string, uint64_t>;

absl::StatusOr<Seeds> ReadSeeds(const json& value) {
  if (!value.is_object()) return Invalid("has rotations of no module");
  Seeds seeds;
  for (const auto& [module, seed] : value.items()) {
    if (!seed.is_number_unsigned()) {
      return Invalid("has a rotation whose seed is no whole number");
    }
    seeds[module] = seed.get<uint64_t>();
  }
  return seeds;
}

// How the linears of a checkpoint run.
struct Simulation {
  v1::Recipe recipe;
  Ranges ranges;
  Seeds rotations;
  formats::KvRounding kv_rounding;
};

class SimulatingLoader : public models::LinearLoader {
 public:
  SimulatingLoader(std::unique_ptr<models::LinearLoader> loader,
                   Simulation simulation)
      : loader_(std::move(loader)), simulation_(std::move(simulation)) {}

  formats::KvRounding KvRounding() const override {
    return simulation_.kv_rounding;
  }

  absl::StatusOr<std::unique_ptr<models::Linear>> Load(const std::string& name,
                                                       int64_t out_features,
                                                       int64_t in_features,
                                                       bool has_bias) override {
    ASSIGN_OR_RETURN(std::unique_ptr<models::Linear> linear,
                     loader_->Load(name, out_features, in_features, has_bias));
    ASSIGN_OR_RETURN(
        const std::optional<formats::RowFormat> format,
        formats::ActivationFormat(spec::SettingsFor(simulation_.recipe, name)));
    if (!format.has_value()) return linear;
    const auto range = simulation_.ranges.find(name);
    ASSIGN_OR_RETURN(
        formats::RowRounding rounding,
        formats::MakeRowRounding(*format, range == simulation_.ranges.end()
                                              ? nullptr
                                              : &range->second));
    const auto seed = simulation_.rotations.find(name);
    if (seed != simulation_.rotations.end()) {
      rounding = formats::InBasis(
          numerics::Rotation::Randomized(in_features, seed->second),
          std::move(rounding));
    }
    return models::MakeRoundedLinear(std::move(linear), std::move(rounding));
  }

 private:
  const std::unique_ptr<models::LinearLoader> loader_;
  const Simulation simulation_;
};

}  // namespace

json SimulationConfig(const ExportSource& source) {
  if (!spec::RoundsActivations(source.recipe) &&
      !spec::RoundsKvCache(source.recipe)) {
    return nullptr;
  }
  json ranges = json::object();
  for (const auto& [module, range] : source.input_ranges) {
    ranges[module] = {range.low(), range.high()};
  }
  json config = {{kSchemaKey, kSchema},
                 {kRecipeKey, spec::ToJson(RunningPart(source))},
                 {kRangesKey, std::move(ranges)}};
  for (const auto& [module, rotation] : source.input_rotations) {
    config[kRotationsKey][module] = rotation.seed();
  }
  return config;
}

absl::StatusOr<std::unique_ptr<models::LinearLoader>> WithSimulation(
    const json& config, std::unique_ptr<models::LinearLoader> loader) {
  const auto found = config.find(kSimulationKey);
  if (found == config.end() || found->is_null()) return loader;
  if (!found->is_object() || found->value(kSchemaKey, json()) != kSchema) {
    return Invalid("is of a version that this build does not know");
  }
  Simulation simulation;
  ASSIGN_OR_RETURN(simulation.recipe,
                   ReadRecipe(found->value(kRecipeKey, json())));
  ASSIGN_OR_RETURN(simulation.ranges,
                   ReadRanges(found->value(kRangesKey, json::object())));
  ASSIGN_OR_RETURN(simulation.rotations,
                   ReadSeeds(found->value(kRotationsKey, json::object())));
  ASSIGN_OR_RETURN(simulation.kv_rounding,
                   formats::MakeKvRounding(simulation.recipe.kv_cache()));
  return std::make_unique<SimulatingLoader>(std::move(loader),
                                            std::move(simulation));
}

}  // namespace quantd::exports
