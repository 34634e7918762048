// SPDX-License-Identifier: Apache-2.0
#include "server/jobs/jobs.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/util/time_util.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/job_states.h"
#include "server/jobs/messages.h"

namespace quantd::jobs {
namespace {

constexpr int32_t kHistoryPage = 500;
constexpr int64_t kLogPageBytes = int64_t{1} << 20;

}  // namespace

Jobs::Jobs(Options options) : options_(std::move(options)) {}

absl::StatusOr<v1::SubmitJobResponse> Jobs::Submit(
    const v1::SubmitJobRequest& request, const std::string& display_name) {
  RETURN_IF_ERROR(CheckSource(request.spec()));
  store::NewJob job;
  job.job_id = options_.ids->NewJobId();
  job.spec = request.spec();
  job.display_name = display_name;
  job.request_id = request.request_id();
  job.request_digest = DigestOf(request.spec());
  job.now = options_.clock->Now();
  ASSIGN_OR_RETURN(const store::SubmitResult result,
                   options_.store->SubmitJob(job));
  v1::SubmitJobResponse response;
  *response.mutable_job() = ToMessage(result.job);
  response.set_existed(result.existed);
  return response;
}

absl::Status Jobs::CheckSource(const v1::JobSpec& spec) {
  const std::string& model = spec.evaluate().model();
  if (absl::StartsWith(model, "artifacts/")) {
    return options_.store->GetArtifact(model).status();
  }
  if (!absl::StartsWith(model, "jobs/")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const store::JobRecord source,
                   options_.store->GetJob(model.substr(5)));
  if (source.state == v1::JOB_STATE_SUCCEEDED) {
    return options_.store->GetArtifact(model).status();
  }
  const std::string state = spec::JobStateName(source.state);
  return base::MakeError(
      absl::StatusCode::kFailedPrecondition, "SOURCE_NOT_READY",
      absl::StrCat("job ", source.job_id, " is ", state,
                   " and has no verified artifact yet; ",
                   spec::IsTerminal(source.state)
                       ? "retry it (qctl retry) or name another job"
                       : "wait until it SUCCEEDED (qctl wait)",
                   ", then submit the evaluation again"),
      {{"job_id", source.job_id}, {"state", state}});
}

absl::StatusOr<v1::Job> Jobs::Get(const std::string& id) {
  ASSIGN_OR_RETURN(const store::JobRecord job, options_.store->GetJob(id));
  return ToMessage(job);
}

absl::StatusOr<JobList> Jobs::List(const store::JobFilter& filter,
                                   int64_t before, int32_t page_size) {
  ASSIGN_OR_RETURN(const store::JobPage page,
                   options_.store->ListJobs(filter, before, page_size));
  JobList list;
  list.next_before = page.next_before;
  for (const store::JobRecord& job : page.jobs) {
    list.jobs.push_back(ToMessage(job));
  }
  return list;
}

absl::StatusOr<v1::Job> Jobs::Cancel(const std::string& id) {
  ASSIGN_OR_RETURN(const store::JobRecord job, options_.store->GetJob(id));
  ASSIGN_OR_RETURN(
      const store::JobRecord cancelled,
      options_.store->CancelJob(job.job_id, options_.clock->Now()));
  return Get(cancelled.job_id);
}

absl::StatusOr<v1::Job> Jobs::Retry(const std::string& id) {
  ASSIGN_OR_RETURN(const store::JobRecord job, options_.store->GetJob(id));
  ASSIGN_OR_RETURN(const store::JobRecord queued,
                   options_.store->RetryJob(job.job_id, options_.clock->Now()));
  return Get(queued.job_id);
}

absl::StatusOr<v1::ReadJobLogResponse> Jobs::ReadLog(
    const v1::ReadJobLogRequest& request) {
  ASSIGN_OR_RETURN(const store::JobRecord job,
                   options_.store->GetJob(request.job_id()));
  ASSIGN_OR_RETURN(const std::vector<store::AttemptRecord> attempts,
                   options_.store->Attempts(job.job_id));
  const int32_t wanted = request.attempt() != 0 || attempts.empty()
                             ? request.attempt()
                             : attempts.back().attempt;
  // A drain gives the attempt's number back: its log goes on in the next file.
  std::vector<int64_t> epochs;
  for (const store::AttemptRecord& attempt : attempts) {
    if (attempt.attempt == wanted) epochs.push_back(attempt.epoch);
  }
  v1::ReadJobLogResponse response;
  ASSIGN_OR_RETURN(
      *response.mutable_text(),
      options_.logs->Read(job.job_id, epochs, request.offset(), kLogPageBytes));
  response.set_next_offset(request.offset() + response.text().size());
  const bool live = spec::HoldsLease(job.state) && wanted == job.attempt;
  response.set_complete(!live && static_cast<int64_t>(response.text().size()) <
                                     kLogPageBytes);
  return response;
}

std::unique_ptr<events::Watch> Jobs::Watch(const std::string& id,
                                           int64_t from_seq,
                                           std::function<void()> on_ready) {
  return std::make_unique<events::Watch>(
      *options_.hub,
      [this](const std::string& job_id, int64_t from) {
        return ReadHistory(job_id, from);
      },
      id, from_seq, std::move(on_ready));
}

absl::StatusOr<events::History> Jobs::ReadHistory(const std::string& job_id,
                                                  int64_t from_seq) {
  ASSIGN_OR_RETURN(const store::JobRecord job, options_.store->GetJob(job_id));
  events::History history;
  ASSIGN_OR_RETURN(history.events,
                   options_.store->ReadEvents(job_id, from_seq, kHistoryPage));
  // The events were read later than the job: there may be newer ones among
  // them, after which the job's state says nothing.
  history.last_seq = job.last_event_seq;
  if (!history.events.empty()) {
    history.last_seq = std::max(history.last_seq, history.events.back().seq());
  }
  history.terminal =
      spec::IsTerminal(job.state) && history.last_seq == job.last_event_seq;
  return history;
}

v1::Job Jobs::ToMessage(const store::JobRecord& record) {
  v1::Job job = JobMessage(record);
  if (spec::HoldsLease(record.state)) {
    absl::MutexLock lock(&mu_);
    const auto progress = progress_.find(record.job_id);
    if (progress != progress_.end()) {
      *job.mutable_progress() = progress->second;
    }
  }
  return job;
}

void Jobs::Forget(const std::string& job_id) {
  absl::MutexLock lock(&mu_);
  progress_.erase(job_id);
  grown_.insert(job_id);
}

void Jobs::RemoveSupersededBlobs() {
  std::set<std::string> grown;
  {
    absl::MutexLock lock(&mu_);
    grown.swap(grown_);
  }
  for (const std::string& job_id : grown) {
    const absl::Status status =
        options_.store
            ->DropSuperseded(job_id,
                             [this](const std::string& sha256) {
                               options_.blobs->Remove(sha256).IgnoreError();
                             })
            .status();
    if (!status.ok()) {
      absl::MutexLock lock(&mu_);
      grown_.insert(job_id);
    }
  }
}

}  // namespace quantd::jobs
