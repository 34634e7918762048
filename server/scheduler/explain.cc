// SPDX-License-Identifier: Apache-2.0
// Why a job is where it is: the part of Scheduler that answers people.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/time_util.h"
#include "proto/base/status_macros.h"
#include "proto/spec/job_states.h"
#include "server/scheduler/placement.h"
#include "server/scheduler/scheduler.h"

namespace quantd::scheduler {
namespace {

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

// In the order of precedence: what must change first comes first.
std::vector<std::string> Scheduler::ExplainQueued(const store::JobRecord& job,
                                                  int64_t jobs_ahead) {
  if (!granting()) {
    return {"QUEUED, SERVER_STOPPING: the server grants no more work.",
            "The job goes on when a server has started again."};
  }
  const absl::Duration now = options_.clock->Monotonic();
  std::vector<WorkerInfo> alive;
  for (const WorkerInfo& worker : workers_.All()) {
    if (now - worker.last_seen <= options_.lease_ttl) alive.push_back(worker);
  }
  if (alive.empty()) {
    return {"QUEUED, NO_WORKER: no worker is connected.",
            "Start a quant-worker that reaches this server."};
  }
  std::string missing;
  std::vector<WorkerInfo> capable;
  for (const WorkerInfo& worker : alive) {
    const std::string lacks = MissingComponent(job.spec, worker.catalog);
    if (lacks.empty()) {
      capable.push_back(worker);
    } else {
      missing = lacks;
    }
  }
  if (capable.empty()) {
    return {absl::StrCat("QUEUED, NO_CAPABLE_WORKER: no connected worker has ",
                         missing, "."),
            "Start a worker whose build has it."};
  }
  const bool any_accepts =
      std::any_of(capable.begin(), capable.end(),
                  [](const WorkerInfo& worker) { return worker.accepts_work; });
  if (!any_accepts) {
    const bool all_busy = std::all_of(
        capable.begin(), capable.end(), [this](const WorkerInfo& worker) {
          return !leases_.OfWorker(worker.worker_name).empty();
        });
    if (!all_busy) {
      return {"QUEUED, WORKERS_DRAINING: every capable worker is draining.",
              "Start another worker or end the drain."};
    }
  }
  return {absl::StrCat("QUEUED, WORKERS_BUSY: ", jobs_ahead,
                       " jobs are ahead of it, ", capable.size(),
                       " workers can run it."),
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
