// SPDX-License-Identifier: Apache-2.0
// The part of Jobs that workers and the scheduler drive.
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/util/time_util.h"
#include "proto/base/digest.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "server/jobs/jobs.h"
#include "server/jobs/messages.h"

namespace quantd::jobs {
namespace {

constexpr char kActivationsRole[] = "activations";
constexpr size_t kArtifactIdLength = 20;

// The same end gives the same ids, so that a repeat is recognised.
void FillIn(v1::Artifact& artifact, const v1::Lease& lease, absl::Time now) {
  artifact.set_job_id(lease.job_id());
  if (artifact.artifact_id().empty()) {
    artifact.set_artifact_id(
        base::Sha256Hex(absl::StrCat(lease.job_id(), "/", lease.epoch(), "/",
                                     artifact.export_(), "/", artifact.name()))
            .substr(0, kArtifactIdLength));
  }
  *artifact.mutable_create_time() =
      google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(
          absl::ToUnixMicros(now));
}

}  // namespace

absl::Status Jobs::MarkRunning(const v1::Lease& lease) {
  return options_.store->MarkRunning(KeyOf(lease), options_.clock->Now());
}

absl::Status Jobs::ReportProgress(const v1::Lease& lease,
                                  const v1::Progress& progress) {
  bool new_phase = false;
  {
    absl::MutexLock lock(&mu_);
    v1::Progress& known = progress_[lease.job_id()];
    new_phase = known.phase() != progress.phase();
    known = progress;
  }
  if (new_phase) {
    const absl::Status stored =
        options_.store->SetPhase(KeyOf(lease), progress.phase());
    if (!stored.ok()) {
      // Tried again with the next report.
      absl::MutexLock lock(&mu_);
      progress_.erase(lease.job_id());
      return stored;
    }
  }
  v1::Event event;
  event.set_job_id(lease.job_id());
  *event.mutable_time() =
      google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(
          absl::ToUnixMicros(options_.clock->Now()));
  *event.mutable_progress() = progress;
  options_.hub->Publish({event});
  return absl::OkStatus();
}

absl::Status Jobs::CommitStep(const v1::CommitStepRequest& request) {
  RETURN_IF_ERROR(options_.store->CommitStep(
      KeyOf(request.lease()), request.step(), options_.clock->Now()));
  absl::MutexLock lock(&mu_);
  grown_.insert(request.lease().job_id());
  return absl::OkStatus();
}

absl::StatusOr<v1::FinishResponse> Jobs::Finish(
    const v1::FinishRequest& request) {
  store::FinishedAttempt finished;
  finished.lease = KeyOf(request.lease());
  finished.result_digest = DigestOf(request);
  finished.report = request.report();
  finished.failure = request.failure();
  finished.log_tail = request.log_tail();
  finished.now = options_.clock->Now();
  if (request.has_failure() && request.failure().failure_class().empty()) {
    return base::MakeError(absl::StatusCode::kInvalidArgument,
                           "FAILURE_CLASS_MISSING",
                           "a failure needs a failure_class");
  }
  for (v1::Artifact artifact : request.artifacts()) {
    FillIn(artifact, request.lease(), finished.now);
    finished.artifacts.push_back(std::move(artifact));
  }
  v1::FinishResponse response;
  ASSIGN_OR_RETURN(
      const v1::JobState state,
      options_.store->FinishAttempt(finished, [&](const store::JobRecord& job) {
        return options_.retry_rule(job, finished.failure);
      }));
  response.set_state(state);
  Forget(request.lease().job_id());
  return response;
}

absl::StatusOr<v1::JobState> Jobs::ConfirmStopped(const v1::Lease& lease) {
  v1::FinishRequest stopped;
  *stopped.mutable_lease() = lease;
  stopped.mutable_failure()->set_failure_class("DRAINED");
  stopped.mutable_failure()->set_reason("RUNNER_STOPPED");
  stopped.mutable_failure()->set_message(
      "the worker stopped the job and reaped its process");
  ASSIGN_OR_RETURN(const v1::FinishResponse response, Finish(stopped));
  return response.state();
}

absl::StatusOr<v1::AppendLogResponse> Jobs::AppendLog(
    const v1::AppendLogRequest& request) {
  const v1::Lease& lease = request.lease();
  ASSIGN_OR_RETURN(const std::vector<store::AttemptRecord> attempts,
                   options_.store->Attempts(lease.job_id()));
  // The last lines may come after the end; they harm nobody, since each grant
  // has a file of its own.
  for (const store::AttemptRecord& attempt : attempts) {
    if (attempt.epoch == lease.epoch() &&
        attempt.incarnation == lease.incarnation()) {
      v1::AppendLogResponse response;
      ASSIGN_OR_RETURN(const int64_t size,
                       options_.logs->Append(lease.job_id(), lease.epoch(),
                                             request.offset(), request.text()));
      response.set_size(size);
      return response;
    }
  }
  return base::MakeError(
      absl::StatusCode::kFailedPrecondition, "LEASE_LOST",
      absl::StrCat("job ", lease.job_id(), " has no such lease"),
      {{"job_id", lease.job_id()}});
}

absl::StatusOr<v1::Assignment> Jobs::Grant(const store::JobRecord& job,
                                           const std::string& worker_name,
                                           const std::string& incarnation) {
  const std::string& model = job.spec.evaluate().model();
  if (absl::StartsWith(model, "artifacts/") ||
      absl::StartsWith(model, "jobs/")) {
    const absl::Status source = options_.store->GetArtifact(model).status();
    if (absl::IsNotFound(source)) {
      v1::Failure failure;
      failure.set_failure_class("INVALID");
      failure.set_reason("ARTIFACT_NOT_FOUND");
      failure.set_message("the artifact to evaluate is no longer there");
      RETURN_IF_ERROR(
          options_.store->FailQueued(job.job_id, failure, options_.clock->Now())
              .status());
      return source;
    }
    RETURN_IF_ERROR(source);
  }
  ASSIGN_OR_RETURN(
      const store::JobRecord leased,
      options_.store->GrantLease(job.job_id, worker_name, incarnation,
                                 options_.clock->Now()));
  return AssignmentOf(leased);
}

absl::StatusOr<v1::Assignment> Jobs::AssignmentOf(const store::JobRecord& job) {
  v1::Assignment assignment;
  *assignment.mutable_lease() = LeaseOf(job);
  *assignment.mutable_spec() = job.spec;
  assignment.set_attempt(job.attempt);
  assignment.set_memory_reduction(job.resource_failures);
  ASSIGN_OR_RETURN(std::vector<v1::Step> steps,
                   options_.store->CommittedSteps(job.job_id));
  for (size_t i = 0; i < steps.size(); ++i) {
    // Those of older steps may be gone already, and nobody needs them.
    if (i + 1 < steps.size()) steps[i].mutable_blobs()->erase(kActivationsRole);
    *assignment.add_committed() = std::move(steps[i]);
  }
  const std::string& model = job.spec.evaluate().model();
  if (absl::StartsWith(model, "artifacts/") ||
      absl::StartsWith(model, "jobs/")) {
    ASSIGN_OR_RETURN(*assignment.mutable_source_artifact(),
                     options_.store->GetArtifact(model));
  }
  return assignment;
}

absl::StatusOr<v1::JobState> Jobs::Lose(const v1::Lease& lease,
                                        const std::string& reason) {
  v1::Failure failure;
  failure.set_failure_class("LOST");
  failure.set_reason(reason);
  failure.set_message("the worker was lost while it held the job");
  ASSIGN_OR_RETURN(const store::JobRecord job,
                   options_.store->EndLease(
                       KeyOf(lease),
                       [&](const store::JobRecord& before) {
                         return options_.retry_rule(before, failure);
                       },
                       options_.clock->Now()));
  Forget(lease.job_id());
  return job.state;
}

absl::Status Jobs::Release(const std::string& job_id) {
  return options_.store->ReleasePending(job_id, options_.clock->Now()).status();
}

}  // namespace quantd::jobs
