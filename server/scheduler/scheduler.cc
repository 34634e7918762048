// SPDX-License-Identifier: Apache-2.0
#include "server/scheduler/scheduler.h"

#include <algorithm>
#include <utility>

#include "google/protobuf/util/time_util.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/job_states.h"
#include "server/jobs/messages.h"
#include "server/scheduler/placement.h"
#include "spdlog/spdlog.h"

namespace quantd::scheduler {
namespace {

// Jobs looked at for one grant: so many that need another kind of worker may
// stand in front of one that does not.
constexpr int32_t kQueueDepth = 128;

google::protobuf::Duration ToProto(absl::Duration duration) {
  return google::protobuf::util::TimeUtil::MillisecondsToDuration(
      absl::ToInt64Milliseconds(duration));
}

}  // namespace

Scheduler::Scheduler(Options options)
    : options_(std::move(options)), leases_(options_.lease_ttl) {}

Scheduler::~Scheduler() { Stop(); }

absl::Status Scheduler::Recover() {
  const absl::Duration now = options_.clock->Monotonic();
  ASSIGN_OR_RETURN(const std::vector<store::JobRecord> leased,
                   options_.store->LeasedJobs());
  for (const store::JobRecord& job : leased) {
    const v1::Lease lease = jobs::LeaseOf(job);
    leases_.Add(lease, job.worker_name, now);
    if (job.state != v1::JOB_STATE_LEASED) leases_.NoteRunning(lease);
  }
  ASSIGN_OR_RETURN(const std::vector<store::JobRecord> pending,
                   options_.store->PendingJobs());
  absl::MutexLock lock(&mu_);
  for (const store::JobRecord& job : pending) {
    // The wall clock may have been set meanwhile: it can shorten the wait to
    // nothing, never make it longer than it was.
    const absl::Duration waited = options_.clock->Now() - job.backoff_since;
    const absl::Duration left =
        std::clamp(job.backoff - waited, absl::ZeroDuration(), job.backoff);
    backoffs_[job.job_id] = now + left;
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::RegisterResponse> Scheduler::Register(
    const v1::RegisterRequest& request) {
  if (request.worker_name().empty() || request.incarnation().empty()) {
    return base::MakeError(absl::StatusCode::kInvalidArgument, "WORKER_UNNAMED",
                           "a worker needs a name and an incarnation");
  }
  store::WorkerRecord record;
  record.worker_name = request.worker_name();
  record.incarnation = request.incarnation();
  record.device = request.device();
  record.code_version = request.catalog().code_version();
  record.registered_time = options_.clock->Now();
  RETURN_IF_ERROR(options_.store->RegisterWorker(record, request.catalog()));
  workers_.Register(request, options_.clock->Monotonic(),
                    record.registered_time);
  // The agent holds a lock on its state directory: where a new one speaks, the
  // old one is dead.
  for (const LiveLease& live : leases_.OfWorker(request.worker_name())) {
    if (live.lease.incarnation() != request.incarnation()) {
      Lose(live, "WORKER_RESTARTED");
    }
  }
  v1::RegisterResponse response;
  response.set_boot_id(options_.boot_id);
  *response.mutable_lease_ttl() = ToProto(options_.lease_ttl);
  *response.mutable_synchronize_interval() =
      ToProto(options_.synchronize_interval);
  return response;
}

absl::StatusOr<v1::SynchronizeResponse> Scheduler::Synchronize(
    const v1::SynchronizeRequest& request) {
  v1::SynchronizeResponse response;
  *response.mutable_next_synchronize() = ToProto(options_.synchronize_interval);
  if (request.boot_id() != options_.boot_id) return response;
  const std::optional<absl::Duration> silence = workers_.Seen(
      request, options_.clock->Monotonic(), options_.clock->Now());
  if (!silence.has_value()) return response;
  if (options_.metrics != nullptr) {
    const absl::Duration late = *silence - options_.synchronize_interval;
    options_.metrics->Observe(metrics::kHeartbeatDelay,
                              std::max(0.0, absl::ToDoubleSeconds(late)));
  }
  response.set_registered(true);
  for (const v1::HeldWork& held : request.held()) {
    if (held.lease().incarnation() == request.incarnation()) HandleHeld(held);
  }
  const std::optional<WorkerInfo> worker = workers_.Find(request.worker_name());
  if (request.accepts_work() && worker.has_value()) TryGrant(*worker);
  for (const LiveLease& live : leases_.OfWorker(request.worker_name())) {
    if (live.lease.incarnation() != request.incarnation()) continue;
    RETURN_IF_ERROR(AddDesired(live, request.held(), response));
  }
  return response;
}

// A renewal needs no disk: while the store is unavailable the worker goes on.
void Scheduler::HandleHeld(const v1::HeldWork& held) {
  const v1::Lease& lease = held.lease();
  if (!leases_.Renew(lease, true, options_.clock->Monotonic())) return;
  absl::Status status;
  if (held.stopped()) {
    status = options_.jobs->ConfirmStopped(lease).status();
    if (status.ok()) leases_.Remove(lease);
  } else {
    const std::optional<LiveLease> live = leases_.Find(lease.job_id());
    if (held.running() && live.has_value() && !live->running) {
      status = options_.jobs->MarkRunning(lease);
      if (status.ok()) leases_.NoteRunning(lease);
    }
    if (status.ok() && held.has_progress()) {
      status = options_.jobs->ReportProgress(lease, held.progress());
    }
  }
  if (absl::IsFailedPrecondition(status)) {
    leases_.Remove(lease);
  } else if (!status.ok()) {
    spdlog::warn("job {}: {}", lease.job_id(), std::string(status.message()));
  }
}

void Scheduler::TryGrant(const WorkerInfo& worker) {
  const std::string& name = worker.worker_name;
  if (!granting() || !workers_.BeginGrant(name)) return;
  if (leases_.OfWorker(name).empty()) {
    const absl::StatusOr<std::vector<store::JobRecord>> queue =
        options_.store->QueueHead(kQueueDepth);
    for (const store::JobRecord& job :
         queue.ok() ? *queue : std::vector<store::JobRecord>()) {
      if (!MissingComponent(job.spec, worker.catalog).empty()) continue;
      const absl::StatusOr<v1::Assignment> granted =
          options_.jobs->Grant(job, name, worker.incarnation);
      if (granted.ok()) {
        leases_.Add(granted->lease(), name, options_.clock->Monotonic());
        CountResume(*granted);
        break;
      }
      // Taken by another worker meanwhile, or gone: the next one then.
      if (!absl::IsFailedPrecondition(granted.status()) &&
          !absl::IsNotFound(granted.status())) {
        break;
      }
    }
  }
  workers_.EndGrant(name);
}

void Scheduler::CountResume(const v1::Assignment& granted) {
  if (options_.metrics == nullptr || granted.lease().epoch() == 1) return;
  options_.metrics->Increment(
      metrics::kResumes,
      {granted.committed().empty() ? "scratch" : "checkpoint"});
}

absl::Status Scheduler::AddDesired(const LiveLease& live, const LeaseList& held,
                                   v1::SynchronizeResponse& response) {
  const bool is_held =
      std::any_of(held.begin(), held.end(), [&](const v1::HeldWork& work) {
        return work.lease().job_id() == live.lease.job_id() &&
               work.lease().epoch() == live.lease.epoch();
      });
  ASSIGN_OR_RETURN(const store::JobRecord job,
                   options_.store->GetJob(live.lease.job_id()));
  if (!spec::HoldsLease(job.state) || job.epoch != live.lease.epoch()) {
    return absl::OkStatus();
  }
  if (job.state == v1::JOB_STATE_CANCELLING) {
    if (!is_held && !live.acknowledged) {
      // It never reached the worker, so nothing is there to be stopped.
      options_.jobs->ConfirmStopped(live.lease).IgnoreError();
      leases_.Remove(live.lease);
    } else {
      *response.add_cancel() = live.lease;
    }
    return absl::OkStatus();
  }
  if (is_held) {
    // The worker has the rest already.
    v1::Assignment& assignment = *response.add_desired();
    *assignment.mutable_lease() = live.lease;
    *assignment.mutable_spec() = job.spec;
    assignment.set_attempt(job.attempt);
    return absl::OkStatus();
  }
  // A worker that had it and has it no more is ending it, or has lost it: then
  // the lease runs out.
  if (live.acknowledged) return absl::OkStatus();
  leases_.Renew(live.lease, false, options_.clock->Monotonic());
  ASSIGN_OR_RETURN(*response.add_desired(), options_.jobs->AssignmentOf(job));
  return absl::OkStatus();
}

absl::Status Scheduler::CommitStep(const v1::CommitStepRequest& request) {
  return options_.jobs->CommitStep(request);
}

absl::StatusOr<v1::FinishResponse> Scheduler::Finish(
    const v1::FinishRequest& request) {
  ASSIGN_OR_RETURN(v1::FinishResponse response, options_.jobs->Finish(request));
  leases_.Remove(request.lease());
  return response;
}

absl::StatusOr<int64_t> Scheduler::SubscribeWake(const v1::WakeRequest& request,
                                                 std::function<void()> wake) {
  const std::optional<WorkerInfo> worker = workers_.Find(request.worker_name());
  if (!worker.has_value() || worker->incarnation != request.incarnation()) {
    return base::MakeError(absl::StatusCode::kFailedPrecondition,
                           "WORKER_NOT_REGISTERED",
                           "this worker is not registered; register first");
  }
  return workers_.AddWake(request.worker_name(), std::move(wake));
}

void Scheduler::UnsubscribeWake(int64_t subscription) {
  workers_.RemoveWake(subscription);
}

bool Scheduler::granting() {
  absl::MutexLock lock(&mu_);
  return granting_;
}

void Scheduler::StopGranting() {
  absl::MutexLock lock(&mu_);
  granting_ = false;
}

void Scheduler::OnEvents(const std::vector<v1::Event>& events) {
  for (const v1::Event& event : events) {
    if (event.has_state_changed()) NoteStateChange(event);
  }
}

void Scheduler::NoteStateChange(const v1::Event& event) {
  const v1::StateChanged& change = event.state_changed();
  absl::MutexLock lock(&mu_);
  if (change.to() == v1::JOB_STATE_CANCELLING) {
    to_wake_.insert(change.worker_name());
  }
  // The wait itself is read from the store by the loop.
  backoffs_.erase(event.job_id());
  if (change.to() == v1::JOB_STATE_PENDING) {
    backoffs_[event.job_id()] = absl::InfiniteDuration();
  }
  changed_ = true;
}

}  // namespace quantd::scheduler
