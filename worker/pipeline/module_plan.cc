// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/module_plan.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/glob.h"
#include "worker/methods/method.h"

namespace quantd::pipeline {
namespace {

// The activation format that leaves activations alone.
constexpr char kFloatActivations[] = "bf16";

absl::Status Refuse(const std::string& module, absl::string_view reason,
                    absl::string_view message) {
  return base::MakeError(absl::StatusCode::kInvalidArgument, reason,
                         absl::StrCat(module, ": ", message),
                         {{"module", module}});
}

absl::Status FillPlan(const v1::Recipe& recipe, ModulePlan* plan) {
  const spec::ModuleSettings settings = spec::SettingsFor(recipe, plan->name);
  plan->quantized = !settings.skip;
  if (settings.skip) return absl::OkStatus();
  if (!settings.activations.empty() &&
      settings.activations != kFloatActivations) {
    return Refuse(plan->name, "ACTIVATIONS_UNSUPPORTED",
                  absl::StrCat("this build cannot quantize activations to ",
                               settings.activations, "; use bf16"));
  }
  const v1::WeightFormat& weights = settings.weights;
  if (weights.group_size() == 0 || weights.group_size() < -1) {
    return Refuse(plan->name, "GROUP_SIZE_INVALID",
                  absl::StrCat("group size ", weights.group_size(),
                               " is neither -1 nor a positive number"));
  }
  RETURN_IF_ERROR(formats::FindFormat(weights.format()).status());
  plan->spec = {weights.format(), weights.group_size(), weights.symmetric(),
                weights.scale_dtype()};
  plan->method = recipe.method();
  for (const auto& [name, value] : settings.extra) {
    (*plan->method.mutable_params())[name] = value;
  }
  return base::AddContext(methods::MakeMethod(plan->method).status(),
                          plan->name);
}

ModulePlan PlanFor(const models::LinearShape& shape, int64_t block) {
  ModulePlan plan;
  plan.name = shape.name;
  plan.block = block;
  plan.out_features = shape.out_features;
  plan.in_features = shape.in_features;
  return plan;
}

}  // namespace

absl::StatusOr<std::vector<ModulePlan>> PlanModules(
    const v1::Recipe& recipe, const models::Model& model) {
  std::vector<ModulePlan> plans;
  for (int64_t block = 0; block < model.num_blocks(); ++block) {
    for (const models::LinearShape& shape : model.BlockLinears(block)) {
      plans.push_back(PlanFor(shape, block));
    }
  }
  const ModulePlan head = PlanFor(model.HeadShape(), kHeadBlock);
  if (recipe.quantize_lm_head()) plans.push_back(head);

  // A pattern may name the head even where the head stays as it is.
  std::vector<std::string> names = {head.name};
  for (const ModulePlan& plan : plans) names.push_back(plan.name);
  RETURN_IF_ERROR(spec::CheckPatterns(recipe, names));

  bool any = false;
  for (ModulePlan& plan : plans) {
    RETURN_IF_ERROR(FillPlan(recipe, &plan));
    any = any || plan.quantized;
  }
  if (!any) {
    return base::MakeError(absl::StatusCode::kInvalidArgument,
                           "NOTHING_TO_QUANTIZE",
                           "the overrides skip every module of the model");
  }
  return plans;
}

absl::Status CheckExports(
    const std::vector<ModulePlan>& modules, const models::Model& model,
    const std::vector<std::unique_ptr<exports::Export>>& exports) {
  for (const ModulePlan& plan : modules) {
    if (!plan.quantized) continue;
    exports::PlannedModule module;
    module.name = plan.name;
    module.out_features = plan.out_features;
    module.in_features = plan.in_features;
    module.spec = plan.spec;
    module.tied_head = plan.block == kHeadBlock && model.head_is_tied();
    for (const auto& layout : exports) {
      RETURN_IF_ERROR(layout->CheckModule(module));
    }
  }
  return absl::OkStatus();
}

std::vector<std::string> QuantizedNames(
    const std::vector<ModulePlan>& modules) {
  std::vector<std::string> names;
  for (const ModulePlan& plan : modules) {
    if (plan.quantized) names.push_back(plan.name);
  }
  return names;
}

double BitsPerWeight(const std::vector<ModulePlan>& modules) {
  double bits = 0;
  double weights = 0;
  for (const ModulePlan& plan : modules) {
    const auto format = formats::FindFormat(plan.spec.format);
    if (!plan.quantized || !format.ok()) continue;
    const int64_t group = plan.spec.GroupSizeFor(plan.in_features);
    const int64_t groups = (plan.in_features + group - 1) / group;
    const int code_bits = (*format)->bits();
    const int scale_bits = plan.spec.scale_dtype == "float32" ? 32 : 16;
    const int grid_bits = scale_bits + (plan.spec.symmetric ? 0 : code_bits);
    bits += static_cast<double>(plan.out_features) *
            (plan.in_features * code_bits + groups * grid_bits);
    weights += static_cast<double>(plan.out_features) * plan.in_features;
  }
  return weights > 0 ? bits / weights : 0;
}

}  // namespace quantd::pipeline
