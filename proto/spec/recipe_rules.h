// SPDX-License-Identifier: Apache-2.0
// What can be said about a recipe without knowing any component: fields that
// must be there, ranges, sizes. Pure; the same in client, server and worker.
#pragma once

#include <vector>

#include "proto/spec/violation.h"
#include "quantd/v1/job.pb.h"
#include "quantd/v1/recipe.pb.h"

namespace quantd::spec {

// The limits that bound the work of everything behind them.
inline constexpr int kMaxTransforms = 8;
inline constexpr int kMaxExports = 8;
inline constexpr int kMaxEvals = 16;
inline constexpr int kMaxOverrides = 4096;
inline constexpr int kMaxParams = 64;
inline constexpr size_t kMaxIdBytes = 64;
inline constexpr size_t kMaxPatternBytes = 256;
inline constexpr size_t kMaxTextBytes = 4096;
inline constexpr int kMaxLabels = 64;
inline constexpr size_t kMaxLabelBytes = 63;
inline constexpr int64_t kMaxGroupSize = 65536;
inline constexpr int kMaxPriority = 1000;

// All problems; empty where the structure is sound. Field paths begin with
// `prefix`, for example "quantize.recipe.".
std::vector<Violation> CheckRecipe(const v1::Recipe& recipe,
                                   const std::string& prefix = "");

// The same for a whole job: kind, model, recipe or evals, priority, labels.
std::vector<Violation> CheckJobSpec(const v1::JobSpec& spec);

}  // namespace quantd::spec
