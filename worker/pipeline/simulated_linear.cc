// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/simulated_linear.h"

#include <utility>

#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::pipeline {
namespace {

// Empty where the module's inputs are left alone.
absl::StatusOr<formats::RowRounding> RoundingOf(const ModulePlan& plan,
                                                const RangesByModule& ranges) {
  if (!plan.activations.has_value()) return formats::RowRounding();
  const auto range = ranges.find(plan.name);
  absl::StatusOr<formats::RowRounding> rounding = formats::MakeRowRounding(
      *plan.activations, range == ranges.end() ? nullptr : &range->second);
  if (!rounding.ok()) return base::AddContext(rounding.status(), plan.name);
  return rounding;
}

}  // namespace

RangesByModule RangesIn(absl::Span<const v1::Step> steps) {
  RangesByModule ranges;
  for (const v1::Step& step : steps) {
    for (const v1::LayerReport& layer : step.layers()) {
      if (layer.has_input_range()) ranges[layer.name()] = layer.input_range();
    }
  }
  return ranges;
}

absl::StatusOr<std::unique_ptr<models::Linear>> MakeSimulatedLinear(
    const ModulePlan& plan, const RangesByModule& ranges, at::Tensor weight,
    const models::Linear& original) {
  ASSIGN_OR_RETURN(formats::RowRounding rounding, RoundingOf(plan, ranges));
  return models::MakeRotatedLinear(
      models::MakeRoundedLinear(
          models::MakeDenseLinear(std::move(weight), original.bias()),
          std::move(rounding)),
      original.input_rotation());
}

absl::StatusOr<std::unique_ptr<models::Linear>> MakeStoredLinear(
    const ModulePlan& plan, const RangesByModule& ranges, at::Tensor weight,
    const models::Linear& original) {
  ASSIGN_OR_RETURN(formats::RowRounding rounding, RoundingOf(plan, ranges));
  const numerics::Rotation* rotation = original.input_rotation();
  if (rotation != nullptr) {
    rounding = formats::InBasis(*rotation, std::move(rounding));
  }
  return models::MakeRoundedLinear(
      models::MakeDenseLinear(std::move(weight), original.bias()),
      std::move(rounding));
}

}  // namespace quantd::pipeline
