// SPDX-License-Identifier: Apache-2.0
// What a recipe means for each linear of a model, worked out and checked before
// any weight is read.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quantd/v1/recipe.pb.h"
#include "worker/exports/export.h"
#include "worker/formats/format.h"
#include "worker/formats/row_rounding.h"
#include "worker/methods/method.h"
#include "worker/models/model.h"

namespace quantd::pipeline {

// The block of the head.
inline constexpr int64_t kHeadBlock = -1;

struct ModulePlan {
  std::string name;
  int64_t block = 0;
  int64_t out_features = 0;
  int64_t in_features = 0;
  // False: stays in floating point; the rest has no meaning.
  bool quantized = false;
  formats::WeightSpec spec;
  // How its inputs are rounded; none where they are left alone.
  std::optional<formats::RowFormat> activations;
  // The method and the transforms, in the recipe's order, with this module's
  // parameters.
  v1::Component method;
  std::vector<v1::Component> transforms;
};

// Every quantizable linear in forward order, the head last where the recipe
// quantizes it. INVALID_ARGUMENT: PATTERN_MATCHES_NOTHING,
// GROUP_SIZE_INVALID, NOTHING_TO_QUANTIZE, TRANSFORM_PARAMETERS_DIFFER, or what
// the registries say of formats and parameters.
absl::StatusOr<std::vector<ModulePlan>> PlanModules(const v1::Recipe& recipe,
                                                    const models::Model& model);

// Every module against every layout that is to be written.
absl::Status CheckExports(
    const std::vector<ModulePlan>& modules, const models::Model& model,
    const std::vector<std::unique_ptr<exports::Export>>& exports);

// The names of the quantized modules, in order.
std::vector<std::string> QuantizedNames(const std::vector<ModulePlan>& modules);

// Bits per weight of the quantized modules: codes, scales and, where they are
// chosen, zero points.
double BitsPerWeight(const std::vector<ModulePlan>& modules);

struct CalibrationPlan {
  // Whether some method compares layers' inputs with those of the float model.
  bool drift = false;
  methods::CalibrationFlow flow;
  // The decoder blocks whose method weighs errors of their outputs.
  std::set<int64_t> weighted_blocks;
};

// INVALID_ARGUMENT, METHOD_PARAMETERS_DIFFER, where modules want tokens to go
// through the model in different ways.
absl::StatusOr<CalibrationPlan> PlanCalibration(
    const std::vector<ModulePlan>& modules);

}  // namespace quantd::pipeline
