// SPDX-License-Identifier: Apache-2.0
// Scores models: the float source and the verified artifact of a quantize job,
// or whatever an evaluate job names.
#include "worker/pipeline/evaluate.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/digest.h"
#include "proto/base/status_macros.h"
#include "proto/spec/canonical.h"
#include "proto/spec/catalog_rules.h"
#include "worker/evals/eval.h"
#include "worker/pipeline/fingerprint.h"
#include "worker/pipeline/quantize_job.h"
#include "worker/pipeline/verified_artifact.h"

namespace quantd::pipeline {
namespace {

constexpr char kFloatSubject[] = "float";
constexpr char kQuantizedSubject[] = "quantized";

// What scoring one task on one model takes. The references outlive the call.
struct Scoring {
  const SourceModel& source;
  const tokenizers::Tokenizer& tokenizer;
  const v1::Component& task;
  std::string subject;
};

absl::Status ScoreStep(const Scoring& scoring, Journal& journal,
                       ProgressReporter& progress,
                       const base::CancelToken& cancel) {
  progress.BeginStep("evaluate");
  const std::string what =
      absl::StrCat(scoring.task.id(), " (", scoring.subject, ")");
  progress.Report(what);
  ASSIGN_OR_RETURN(const auto eval, evals::MakeEval(scoring.task));
  const evals::EvalSubject subject{
      *scoring.source.model, scoring.tokenizer,
      [&](int64_t done, int64_t total) {
        progress.Report(absl::StrCat(what, " ", done, "/", total));
      }};
  ASSIGN_OR_RETURN(v1::EvalReport report, eval->Run(subject, cancel));
  report.set_task(scoring.task.id());
  report.set_subject(scoring.subject);
  v1::Step step;
  step.set_seconds(progress.StepSeconds());
  if (report.seconds() == 0) report.set_seconds(step.seconds());
  *step.add_evals() = std::move(report);
  return journal.Commit(std::move(step), {});
}

// The model of an evaluate job: the artifact's files, or a path.
absl::StatusOr<SourceModel> OpenSubject(const v1::StartJob& start,
                                        at::Device device) {
  if (start.source_files().empty()) {
    return OpenSource(start.spec().evaluate().model(), device);
  }
  const std::string directory = absl::StrCat(start.work_directory(), "/source");
  const std::map<std::string, std::string> files(start.source_files().begin(),
                                                 start.source_files().end());
  RETURN_IF_ERROR(LinkFiles(files, directory));
  return OpenSource(directory, device);
}

v1::JobReport EvaluationReport(const Journal& journal,
                               const SourceModel& source) {
  v1::JobReport report;
  for (const v1::Step& step : journal.done()) {
    report.mutable_evals()->MergeFrom(step.evals());
  }
  const int64_t bytes = source.model->stored_bytes();
  if (source.quantized()) {
    report.set_quantized_bytes(bytes);
  } else {
    report.set_float_bytes(bytes);
  }
  report.set_peak_memory_bytes(PeakMemoryBytes());
  return report;
}

}  // namespace

absl::Status RunEvaluate(QuantizeJob& job) {
  const std::vector<int64_t> steps = job.journal->StepsOf(kEvaluateStep);
  const int64_t index = job.journal->next() - steps.front();
  const v1::Component& task = job.recipe.evals(static_cast<int>(index / 2));
  ASSIGN_OR_RETURN(const auto tokenizer, job.source.MakeTokenizer());
  if (index % 2 == 0) {
    // The model as it was given, whatever transforms made of it.
    ASSIGN_OR_RETURN(const SourceModel given,
                     OpenSource(job.spec().model(), job.device));
    return ScoreStep({given, *tokenizer, task, kFloatSubject}, *job.journal,
                     *job.progress, job.cancel);
  }
  const int64_t export_step = job.journal->StepsOf(kExportStep).front();
  ASSIGN_OR_RETURN(const SourceModel artifact,
                   OpenVerifiedArtifact(job, export_step));
  return ScoreStep({artifact, *tokenizer, task, kQuantizedSubject},
                   *job.journal, *job.progress, job.cancel);
}

absl::StatusOr<RunResult> RunEvaluateJob(const v1::StartJob& start, Sink& sink,
                                         const base::CancelToken& cancel) {
  RETURN_IF_ERROR(spec::ValidateJob(start.spec(), DescribeBuild()));
  ASSIGN_OR_RETURN(const at::Device device, ParseDevice(start.device()));
  ASSIGN_OR_RETURN(const SourceModel source, OpenSubject(start, device));
  ASSIGN_OR_RETURN(const auto tokenizer, source.MakeTokenizer());
  const auto& tasks = start.spec().evaluate().evals();
  std::vector<PlannedStep> plan = {{kLoadStep, "load"}};
  const std::string subject =
      source.quantized() ? kQuantizedSubject : kFloatSubject;
  for (const v1::Component& task : tasks) {
    plan.push_back({kEvaluateStep, absl::StrCat(task.id(), "/", subject)});
  }
  FingerprintParts parts;
  ASSIGN_OR_RETURN(parts.weights_digest, source.reader->Digest());
  parts.tokens_digest = tokenizer->digest();
  parts.recipe_digest =
      base::Sha256Hex(spec::CanonicalText(start.spec().evaluate()));
  Journal journal(start, sink, Fingerprint(parts, device), std::move(plan));
  ProgressReporter progress(sink, journal, source.model->num_blocks(),
                            base::Clock::Real());
  if (journal.next() == 0) {
    progress.BeginStep("load");
    RETURN_IF_ERROR(journal.Commit(v1::Step(), {}));
  }
  while (journal.next() < journal.num_steps()) {
    RETURN_IF_ERROR(cancel.Check());
    const v1::Component& task = tasks[static_cast<int>(journal.next() - 1)];
    RETURN_IF_ERROR(ScoreStep({source, *tokenizer, task, subject}, journal,
                              progress, cancel));
  }
  RunResult result;
  result.report = EvaluationReport(journal, source);
  return result;
}

}  // namespace quantd::pipeline
