// SPDX-License-Identifier: Apache-2.0
// A recipe with nothing left open: every parameter written out, so that its
// digest names the result.
#pragma once

#include "absl/status/statusor.h"
#include "quantd/v1/recipe.pb.h"
#include "worker/models/model.h"

namespace quantd::pipeline {

// Where a recipe names none.
inline constexpr int64_t kDefaultSequenceLength = 512;
inline constexpr int64_t kDefaultCalibrationSamples = 128;

// What the server has checked is checked again, then defaults are written out.
// Calibration sequences are cut to the model's context. The errors are those of
// proto/spec/catalog_rules.h.
absl::StatusOr<v1::Recipe> ResolveRecipe(const v1::Recipe& recipe,
                                         const models::Model& model);

}  // namespace quantd::pipeline
