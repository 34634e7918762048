// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/resolve_recipe.h"

#include "proto/base/log.h"
#include "proto/base/status_macros.h"
#include "proto/spec/catalog_rules.h"
#include "worker/pipeline/pipeline.h"

namespace quantd::pipeline {

absl::StatusOr<v1::Recipe> ResolveRecipe(const v1::Recipe& recipe,
                                         const models::Model& model) {
  ASSIGN_OR_RETURN(v1::Recipe resolved,
                   spec::ResolveRecipe(recipe, DescribeBuild()));
  v1::Calibration* calibration = resolved.mutable_calibration();
  if (calibration->num_samples() == 0) {
    calibration->set_num_samples(kDefaultCalibrationSamples);
  }
  if (calibration->sequence_length() == 0) {
    calibration->set_sequence_length(kDefaultSequenceLength);
  }
  const int64_t context = model.context_length();
  if (context > 0 && calibration->sequence_length() > context) {
    spdlog::warn(
        "calibration sequences are cut to the model's context of {} tokens",
        context);
    calibration->set_sequence_length(context);
  }
  return resolved;
}

}  // namespace quantd::pipeline
