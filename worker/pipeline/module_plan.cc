// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/module_plan.h"

#include <google/protobuf/util/message_differencer.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/glob.h"
#include "proto/spec/module_components.h"
#include "worker/methods/block_method.h"
#include "worker/methods/method.h"

namespace quantd::pipeline {
namespace {

using google::protobuf::util::MessageDifferencer;

absl::Status Refuse(const std::string& module, absl::string_view reason,
                    absl::string_view message) {
  return base::MakeError(absl::StatusCode::kInvalidArgument, reason,
                         absl::StrCat(module, ": ", message),
                         {{"module", module}});
}

// The group size of a format that has only one; else as the recipe says.
absl::StatusOr<int64_t> GroupSize(const v1::WeightFormat& weights,
                                  const formats::Format& format,
                                  const std::string& module) {
  const int64_t fixed = format.fixed_group_size();
  const int64_t asked = weights.group_size();
  if (fixed != 0) return fixed;
  if (asked > 0 || asked == -1) return asked;
  return Refuse(
      module, "GROUP_SIZE_INVALID",
      absl::StrCat("group size ", asked, " is neither -1 nor positive"));
}

absl::Status FillSpec(const v1::WeightFormat& weights, ModulePlan* plan) {
  ASSIGN_OR_RETURN(const formats::Format* format,
                   formats::FindFormat(weights.format()));
  ASSIGN_OR_RETURN(const int64_t group_size,
                   GroupSize(weights, *format, plan->name));
  plan->spec = {weights.format(), group_size, weights.symmetric(),
                weights.scale_dtype()};
  plan->spec.params.insert(weights.params().begin(), weights.params().end());
  return base::AddContext(formats::ParamsOf(plan->spec).status(), plan->name);
}

absl::Status FillPlan(const v1::Recipe& recipe, ModulePlan* plan) {
  const spec::ModuleSettings settings = spec::SettingsFor(recipe, plan->name);
  plan->quantized = !settings.skip;
  if (settings.skip) return absl::OkStatus();
  RETURN_IF_ERROR(FillSpec(settings.weights, plan));
  auto activations = formats::ActivationFormat(settings);
  if (!activations.ok()) {
    return base::AddContext(activations.status(), plan->name);
  }
  plan->activations = *std::move(activations);
  auto components = spec::ComponentsWith(recipe, settings.extra);
  if (!components.ok()) {
    return base::AddContext(components.status(), plan->name);
  }
  plan->method = std::move(components->method);
  plan->transforms = std::move(components->transforms);
  return base::AddContext(methods::MakeMethod(plan->method).status(),
                          plan->name);
}

bool SameTransforms(const ModulePlan& one, const ModulePlan& other) {
  return std::equal(one.transforms.begin(), one.transforms.end(),
                    other.transforms.begin(), other.transforms.end(),
                    [](const v1::Component& a, const v1::Component& b) {
                      return MessageDifferencer::Equals(a, b);
                    });
}

// Modules that read the same channels share what is made of these.
absl::Status CheckTransforms(const models::Model& model,
                             const std::vector<ModulePlan>& plans) {
  std::map<std::string, const ModulePlan*> by_name;
  for (const ModulePlan& plan : plans) {
    if (plan.quantized) by_name[plan.name] = &plan;
  }
  for (int64_t block = 0; block < model.num_blocks(); ++block) {
    for (const models::ScaleFold& fold : model.Folds(block).scales) {
      const ModulePlan* first = nullptr;
      for (const std::string& name : fold.consumers) {
        const auto plan = by_name.find(name);
        if (plan == by_name.end()) continue;
        if (first == nullptr) first = plan->second;
        if (SameTransforms(*first, *plan->second)) continue;
        return base::MakeError(
            absl::StatusCode::kInvalidArgument, "TRANSFORM_PARAMETERS_DIFFER",
            absl::StrCat(name, " and ", first->name,
                         " read the same channels and cannot have different "
                         "parameters of a transform; give the override a "
                         "pattern for both"),
            {{"module", name}});
      }
    }
  }
  return absl::OkStatus();
}

ModulePlan PlanFor(const models::LinearShape& shape, int64_t block) {
  ModulePlan plan;
  plan.name = shape.name;
  plan.block = block;
  plan.out_features = shape.out_features;
  plan.in_features = shape.in_features;
  return plan;
}

// Every pattern names something: a linear, the head even where it stays as it
// is, or, to leave it alone, a router.
absl::Status CheckOverrides(const v1::Recipe& recipe,
                            const models::Model& model,
                            const std::vector<ModulePlan>& plans) {
  std::vector<std::string> names = {model.HeadShape().name};
  for (const ModulePlan& plan : plans) names.push_back(plan.name);
  std::vector<std::string> routers;
  for (int64_t block = 0; block < model.num_blocks(); ++block) {
    for (std::string& name : model.RouterLinears(block)) {
      routers.push_back(std::move(name));
    }
  }
  const auto matches = [](const std::string& pattern,
                          const std::vector<std::string>& of) {
    return std::any_of(of.begin(), of.end(), [&](const std::string& name) {
      return spec::GlobMatches(pattern, name);
    });
  };
  for (const v1::Override& row : recipe.overrides()) {
    if (row.skip() || matches(row.pattern(), names) ||
        !matches(row.pattern(), routers)) {
      continue;
    }
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "ROUTER_STAYS_FLOAT",
        absl::StrCat("the pattern \"", row.pattern(),
                     "\" matches routers alone, which are never quantized; "
                     "give it \"skip\": true or leave it out"));
  }
  names.insert(names.end(), routers.begin(), routers.end());
  return spec::CheckPatterns(recipe, names);
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

  RETURN_IF_ERROR(CheckOverrides(recipe, model, plans));

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
  if (!recipe.transforms().empty()) {
    RETURN_IF_ERROR(CheckTransforms(model, plans));
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
    bits += static_cast<double>(plan.out_features) * plan.in_features *
            (*format)->BitsPerWeight(plan.spec, plan.in_features);
    weights += static_cast<double>(plan.out_features) * plan.in_features;
  }
  return weights > 0 ? bits / weights : 0;
}

absl::StatusOr<CalibrationPlan> PlanCalibration(
    const std::vector<ModulePlan>& modules) {
  CalibrationPlan calibration;
  std::optional<methods::CalibrationFlow> flow;
  for (const ModulePlan& plan : modules) {
    if (!plan.quantized) continue;
    ASSIGN_OR_RETURN(const auto method, methods::MakeMethod(plan.method));
    if (method->needs() == methods::Needs::kGramAndDrift) {
      calibration.drift = true;
    }
    const methods::BlockMethod* together = method->block_method();
    if (plan.block != kHeadBlock && together != nullptr &&
        together->needs_output_weights()) {
      calibration.weighted_blocks.insert(plan.block);
    }
    if (flow.has_value() && *flow != method->flow()) {
      return base::MakeError(
          absl::StatusCode::kInvalidArgument, "METHOD_PARAMETERS_DIFFER",
          absl::StrCat(plan.name,
                       " wants the calibration tokens to go through the model "
                       "in another way than the modules before it; set such "
                       "parameters for the whole method and not in overrides"),
          {{"module", plan.name}});
    }
    flow = method->flow();
  }
  calibration.flow = flow.value_or(methods::CalibrationFlow());
  return calibration;
}

}  // namespace quantd::pipeline
