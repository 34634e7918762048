// SPDX-License-Identifier: Apache-2.0
// Why a job is where it is: the part of Scheduler that answers people.
#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/time_util.h"
#include "proto/base/status_macros.h"
#include "proto/spec/job_states.h"
#include "server/scheduler/placement.h"
#include "server/scheduler/scheduler.h"

namespace quantd::scheduler {
namespace {

constexpr char kStopping[] = "SERVER_STOPPING";
constexpr char kNoWorker[] = "NO_WORKER";
constexpr char kNoCapableWorker[] = "NO_CAPABLE_WORKER";
constexpr char kDraining[] = "WORKERS_DRAINING";
constexpr char kBusy[] = "WORKERS_BUSY";
constexpr char kAboutToStart[] = "ABOUT_TO_START";

// Waiting jobs that are looked at one by one for a scrape.
constexpr int32_t kQueueDepth = 128;

// "1 job is", "2 jobs are".
std::string Counted(int64_t count, const char* one, const char* many) {
  return absl::StrCat(count, " ", count == 1 ? one : many);
}

std::string Seconds(absl::Duration duration) {
  return absl::StrCat(std::max<int64_t>(0, absl::ToInt64Seconds(duration)),
                      " s");
}

}  // namespace

absl::StatusOr<v1::ExplainJobResponse> Scheduler::Explain(
    const std::string& id) {
  ASSIGN_OR_RETURN(const store::JobRecord job, options_.store->GetJob(id));
  v1::ExplainJobResponse response;
  std::vector<std::string> sentences;
  switch (job.state) {
    case v1::JOB_STATE_PENDING: {
      const absl::Duration left =
          job.backoff - (options_.clock->Now() - job.backoff_since);
      sentences = {absl::StrCat("PENDING, BACKOFF: attempt ", job.attempt,
                                " failed and the job waits before the next."),
                   absl::StrCat("It is queued again in about ",
                                Seconds(std::min(left, job.backoff)), ".")};
      break;
    }
    case v1::JOB_STATE_QUEUED: {
      ASSIGN_OR_RETURN(const int64_t ahead,
                       options_.store->JobsAhead(job.job_id));
      response.set_jobs_ahead(ahead);
      sentences = ExplainQueued(job, ahead);
      break;
    }
    case v1::JOB_STATE_LEASED:
      sentences = {absl::StrCat("LEASED: given to worker ", job.worker_name,
                                ", which has not yet said that it runs."),
                   "It is queued again where the worker stays silent."};
      break;
    case v1::JOB_STATE_RUNNING:
      sentences = {absl::StrCat("RUNNING on worker ", job.worker_name,
                                ", attempt ", job.attempt, ", ",
                                job.committed_steps, " steps are durable.")};
      break;
    case v1::JOB_STATE_CANCELLING:
      sentences = {
          absl::StrCat("CANCELLING: worker ", job.worker_name,
                       " has yet to confirm that its process has ended."),
          "It ends when the worker confirms, or when its lease runs out."};
      break;
    case v1::JOB_STATE_FAILED:
      sentences = {absl::StrCat("FAILED, ", job.failure.reason(), ": ",
                                job.failure.message()),
                   "Retry goes on from the last durable step."};
      break;
    default:
      sentences = {absl::StrCat(spec::JobStateName(job.state),
                                ": nothing more will happen.")};
  }
  for (const std::string& sentence : sentences) {
    response.add_sentences(sentence);
  }
  return response;
}

std::vector<WorkerInfo> Scheduler::AliveWorkers() {
  const absl::Duration now = options_.clock->Monotonic();
  std::vector<WorkerInfo> alive;
  for (WorkerInfo& worker : workers_.All()) {
    if (now - worker.last_seen <= options_.lease_ttl) {
      alive.push_back(std::move(worker));
    }
  }
  return alive;
}

// In the order of precedence: what must change first comes first.
QueueWait Scheduler::WaitOf(const v1::JobSpec& spec,
                            const std::vector<WorkerInfo>& alive) {
  QueueWait wait;
  wait.reason = kStopping;
  if (!granting()) return wait;
  wait.reason = alive.empty() ? kNoWorker : kNoCapableWorker;
  for (const WorkerInfo& worker : alive) {
    const std::string lacks = MissingComponent(spec, worker.catalog);
    if (!lacks.empty()) {
      wait.missing = lacks;
      continue;
    }
    ++wait.num_capable;
    if (!leases_.OfWorker(worker.worker_name).empty()) {
      if (wait.free_worker.empty()) wait.reason = kBusy;
    } else if (worker.accepts_work) {
      wait.reason = kAboutToStart;
      wait.free_worker = worker.worker_name;
    } else if (wait.reason != kBusy && wait.reason != kAboutToStart) {
      wait.reason = kDraining;
    }
  }
  return wait;
}

std::string Scheduler::WaitReason(const v1::JobSpec& spec) {
  return WaitOf(spec, AliveWorkers()).reason;
}

std::map<std::string, int64_t> Scheduler::CountWaiting(
    const store::WaitingJobs& waiting, int64_t num_queued) {
  std::map<std::string, int64_t> counts;
  for (const char* reason : {"BACKOFF", kStopping, kNoWorker, kNoCapableWorker,
                             kDraining, kBusy, kAboutToStart}) {
    counts[reason] = 0;
  }
  for (const auto& [reason, count] : waiting.pending) counts[reason] += count;
  const std::vector<WorkerInfo> alive = AliveWorkers();
  const auto head = options_.store->QueueHead(kQueueDepth);
  if (!head.ok()) return counts;
  for (const store::JobRecord& job : *head) {
    ++counts[WaitOf(job.spec, alive).reason];
  }
  const int64_t behind =
      std::max<int64_t>(0, num_queued - static_cast<int64_t>(head->size()));
  counts[!granting() ? kStopping : alive.empty() ? kNoWorker : kBusy] += behind;
  return counts;
}

std::vector<std::string> Scheduler::ExplainQueued(const store::JobRecord& job,
                                                  int64_t jobs_ahead) {
  const QueueWait wait = WaitOf(job.spec, AliveWorkers());
  const std::string head = absl::StrCat("QUEUED, ", wait.reason, ": ");
  if (wait.reason == kStopping) {
    return {head + "the server grants no more work.",
            "The job goes on when a server has started again."};
  }
  if (wait.reason == kNoWorker) {
    return {head + "no worker is connected.",
            "Start a quant-worker that reaches this server."};
  }
  if (wait.reason == kNoCapableWorker) {
    return {absl::StrCat(head, "no connected worker has ", wait.missing, "."),
            "Start a worker whose build has it."};
  }
  if (wait.reason == kDraining) {
    return {head + "every capable worker is draining.",
            "Start another worker or end the drain."};
  }
  if (wait.reason == kAboutToStart && jobs_ahead == 0) {
    return {absl::StrCat(head, "worker ", wait.free_worker,
                         " is free and nothing is ahead of it."),
            absl::StrCat("It starts with that worker's next beat, within ",
                         Seconds(options_.synchronize_interval), ".")};
  }
  return {absl::StrCat(
              "QUEUED, ", kBusy, ": ",
              Counted(jobs_ahead, "job is", "jobs are"), " ahead of it, ",
              Counted(wait.num_capable, "worker", "workers"), " can run it."),
          "It starts when a worker is free and nothing is ahead of it; a "
          "higher priority would move it forward."};
}

std::vector<v1::WorkerStatus> Scheduler::ListWorkers() {
  const absl::Duration now = options_.clock->Monotonic();
  std::vector<v1::WorkerStatus> result;
  for (const WorkerInfo& worker : workers_.All()) {
    v1::WorkerStatus& status = result.emplace_back();
    status.set_worker_name(worker.worker_name);
    *status.mutable_device() = worker.device;
    status.set_code_version(worker.catalog.code_version());
    *status.mutable_last_heartbeat_time() =
        google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(
            absl::ToUnixMicros(worker.last_heartbeat_time));
    const std::vector<LiveLease> held = leases_.OfWorker(worker.worker_name);
    if (!held.empty()) status.set_job_id(held.front().lease.job_id());
    if (now - worker.last_seen > options_.lease_ttl) {
      status.set_state("LOST");
    } else if (!held.empty()) {
      status.set_state("BUSY");
    } else {
      status.set_state(worker.accepts_work ? "IDLE" : "DRAINING");
    }
  }
  return result;
}

}  // namespace quantd::scheduler
