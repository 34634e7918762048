// SPDX-License-Identifier: Apache-2.0
// The exported checkpoint of a job as later stages read it: from disk.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "worker/pipeline/quantize_job.h"
#include "worker/pipeline/source_model.h"

namespace quantd::pipeline {

// Links the files of a committed export step under their names and opens them
// like any foreign checkpoint.
absl::StatusOr<SourceModel> OpenVerifiedArtifact(const QuantizeJob& job,
                                                 int64_t export_step);

}  // namespace quantd::pipeline
