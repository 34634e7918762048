// SPDX-License-Identifier: Apache-2.0
// The part of Scheduler that time drives.
#include <algorithm>
#include <string>
#include <vector>

#include "server/jobs/messages.h"
#include "server/scheduler/placement.h"
#include "server/scheduler/scheduler.h"
#include "spdlog/spdlog.h"

namespace quantd::scheduler {
namespace {

// As deep as a grant looks: the first jobs may need another kind of worker.
constexpr int32_t kQueueDepth = 128;
// What is due and fails, as on a full disk, is tried again no faster.
constexpr absl::Duration kShortestWait = absl::Milliseconds(200);
constexpr absl::Duration kCleaningInterval = absl::Minutes(1);

}  // namespace

void Scheduler::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void Scheduler::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void Scheduler::Loop() {
  while (true) {
    Tick();
    const absl::Duration wait =
        std::min(options_.fallback_interval, NextTimer());
    absl::MutexLock lock(&mu_);
    auto something = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return changed_ || stopping_;
    };
    mu_.AwaitWithTimeout(absl::Condition(&something), wait);
    if (stopping_) return;
  }
}

absl::Duration Scheduler::NextTimer() {
  absl::Duration next = leases_.NextDeadline();
  absl::MutexLock lock(&mu_);
  for (const auto& [job_id, due] : backoffs_) next = std::min(next, due);
  return std::max(next - options_.clock->Monotonic(), kShortestWait);
}

void Scheduler::Tick() {
  {
    absl::MutexLock lock(&mu_);
    changed_ = false;
  }
  ExpireLeases();
  ReleaseBackoffs();
  WakeWorkers();
  RemoveBlobsNowAndThen();
}

void Scheduler::ExpireLeases() {
  for (const LiveLease& live : leases_.Expired(options_.clock->Monotonic())) {
    Lose(live, "LEASE_EXPIRED");
  }
}

void Scheduler::Lose(const LiveLease& live, const std::string& reason) {
  const absl::StatusOr<v1::JobState> state =
      options_.jobs->Lose(live.lease, reason);
  if (state.ok() || absl::IsFailedPrecondition(state.status())) {
    leases_.Remove(live.lease);
    return;
  }
  spdlog::warn("job {}: {}", live.lease.job_id(),
               std::string(state.status().message()));
}

void Scheduler::ReleaseBackoffs() {
  const absl::Duration now = options_.clock->Monotonic();
  std::vector<std::string> due;
  bool unread = false;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [job_id, time] : backoffs_) {
      if (time == absl::InfiniteDuration()) unread = true;
      if (time <= now) due.push_back(job_id);
    }
  }
  for (const std::string& job_id : due) {
    // A job that was cancelled meanwhile is refused, and rightly.
    const absl::Status status = options_.jobs->Release(job_id);
    if (!status.ok() && !absl::IsFailedPrecondition(status)) continue;
    absl::MutexLock lock(&mu_);
    const auto it = backoffs_.find(job_id);
    if (it != backoffs_.end() && it->second <= now) backoffs_.erase(it);
  }
  if (!unread) return;
  const absl::StatusOr<std::vector<store::JobRecord>> pending =
      options_.store->PendingJobs();
  if (!pending.ok()) return;
  absl::MutexLock lock(&mu_);
  for (const store::JobRecord& job : *pending) {
    const auto it = backoffs_.find(job.job_id);
    if (it != backoffs_.end() && it->second == absl::InfiniteDuration()) {
      it->second = now + job.backoff;
    }
  }
}

void Scheduler::WakeWorkers() {
  std::set<std::string> to_wake;
  {
    absl::MutexLock lock(&mu_);
    to_wake.swap(to_wake_);
  }
  std::vector<WorkerInfo> idle;
  for (const WorkerInfo& worker : workers_.All()) {
    const bool free =
        worker.accepts_work && leases_.OfWorker(worker.worker_name).empty();
    if (free && granting()) idle.push_back(worker);
  }
  if (!idle.empty()) {
    const auto queue = options_.store->QueueHead(kQueueDepth);
    for (const store::JobRecord& job :
         queue.ok() ? *queue : std::vector<store::JobRecord>()) {
      const auto fit =
          std::find_if(idle.begin(), idle.end(), [&](const WorkerInfo& worker) {
            return MissingComponent(job.spec, worker.catalog).empty();
          });
      if (fit == idle.end()) continue;
      to_wake.insert(fit->worker_name);
      idle.erase(fit);
    }
  }
  for (const std::string& name : to_wake) workers_.Wake(name);
}

void Scheduler::RemoveBlobsNowAndThen() {
  const absl::Duration now = options_.clock->Monotonic();
  if (now < next_cleaning_) return;
  next_cleaning_ = now + kCleaningInterval;
  options_.jobs->CollectOrphans();
  options_.jobs->RemoveSupersededBlobs();
}

}  // namespace quantd::scheduler
