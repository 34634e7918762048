// SPDX-License-Identifier: Apache-2.0
// The order of a job's stages.
#include <map>
#include <utility>

#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/pipeline/evaluate.h"
#include "worker/pipeline/pipeline.h"
#include "worker/pipeline/quantize_job.h"

namespace quantd::pipeline {
namespace {

using Stage = absl::Status (*)(QuantizeJob&);

// Which stage does a kind of step.
const std::map<std::string, Stage>& Stages() {
  static const auto& stages = *new std::map<std::string, Stage>{
      {kLoadStep, &RunLoad},     {kMeasureStep, &RunMeasure},
      {kWeighStep, &RunWeigh},   {kBlockStep, &RunBlocks},
      {kHeadStep, &RunBlocks},   {kExportStep, &RunExport},
      {kVerifyStep, &RunVerify}, {kEvaluateStep, &RunEvaluate}};
  return stages;
}

absl::StatusOr<RunResult> RunQuantizeJob(const v1::StartJob& start, Sink& sink,
                                         const base::CancelToken& cancel) {
  ASSIGN_OR_RETURN(const std::unique_ptr<QuantizeJob> job,
                   PrepareQuantize(start, sink, cancel));
  RunResult result;
  bool exported_here = false;
  while (job->journal->next() < job->journal->num_steps()) {
    RETURN_IF_ERROR(cancel.Check());
    const std::string kind = job->journal->plan()[job->journal->next()].kind;
    // What is verified is read by a process that has never seen it.
    if (kind == kVerifyStep && exported_here) {
      result.outcome = Outcome::kContinueElsewhere;
      return result;
    }
    exported_here = exported_here || kind == kExportStep;
    RETURN_IF_ERROR(Stages().at(kind)(*job));
  }
  result.report = MakeReport(*job);
  ASSIGN_OR_RETURN(result.artifacts, MakeArtifacts(*job));
  return result;
}

}  // namespace

absl::StatusOr<RunResult> RunJob(const v1::StartJob& start, Sink& sink,
                                 const base::CancelToken& cancel) {
  if (start.spec().has_quantize()) return RunQuantizeJob(start, sink, cancel);
  if (start.spec().has_evaluate()) return RunEvaluateJob(start, sink, cancel);
  return base::MakeError(absl::StatusCode::kInvalidArgument, "JOB_KIND_UNKNOWN",
                         "the job is neither quantize nor evaluate");
}

}  // namespace quantd::pipeline
