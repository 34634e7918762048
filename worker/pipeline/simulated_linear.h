// SPDX-License-Identifier: Apache-2.0
// A quantized linear as the finished model runs it, before there is a
// checkpoint to load it from.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "quantd/v1/report.pb.h"
#include "quantd/v1/worker.pb.h"
#include "worker/models/linear.h"
#include "worker/pipeline/module_plan.h"

namespace quantd::pipeline {

// The static ranges of activations, by module.
using RangesByModule = std::map<std::string, v1::InputRange>;

// Those that the layer reports of `steps` have.
RangesByModule RangesIn(absl::Span<const v1::Step> steps);

// `weight` float32 [out, in] where the model runs, in place of that of
// `original`, whose bias and rotation of the input it keeps.
absl::StatusOr<std::unique_ptr<models::Linear>> MakeSimulatedLinear(
    const ModulePlan& plan, const RangesByModule& ranges, at::Tensor weight,
    const models::Linear& original);

// The same as a checkpoint runs it, whose weight is turned back where the input
// of `original` is rotated (exports::Export::StoredWeight).
absl::StatusOr<std::unique_ptr<models::Linear>> MakeStoredLinear(
    const ModulePlan& plan, const RangesByModule& ranges, at::Tensor weight,
    const models::Linear& original);

}  // namespace quantd::pipeline
