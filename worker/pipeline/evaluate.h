// SPDX-License-Identifier: Apache-2.0
// Evaluate jobs: any checkpoint this build reads, one step per task.
#pragma once

#include "absl/status/statusor.h"
#include "proto/base/cancel.h"
#include "quantd/v1/runner.pb.h"
#include "worker/pipeline/pipeline.h"

namespace quantd::pipeline {

absl::StatusOr<RunResult> RunEvaluateJob(const v1::StartJob& start, Sink& sink,
                                         const base::CancelToken& cancel);

}  // namespace quantd::pipeline
