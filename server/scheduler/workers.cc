// SPDX-License-Identifier: Apache-2.0
#include "server/scheduler/workers.h"

#include <utility>

namespace quantd::scheduler {

void WorkerTable::Register(const v1::RegisterRequest& request,
                           absl::Duration now, absl::Time wall) {
  absl::MutexLock lock(&mu_);
  WorkerInfo& worker = workers_[request.worker_name()];
  worker.worker_name = request.worker_name();
  worker.incarnation = request.incarnation();
  worker.device = request.device();
  worker.catalog = request.catalog();
  worker.accepts_work = false;
  worker.last_seen = now;
  worker.last_heartbeat_time = wall;
}

std::optional<absl::Duration> WorkerTable::Seen(
    const v1::SynchronizeRequest& request, absl::Duration now,
    absl::Time wall) {
  absl::MutexLock lock(&mu_);
  const auto it = workers_.find(request.worker_name());
  if (it == workers_.end() || it->second.incarnation != request.incarnation()) {
    return std::nullopt;
  }
  WorkerInfo& worker = it->second;
  const absl::Duration silence = now - worker.last_seen;
  worker.accepts_work = request.accepts_work();
  if (request.has_device()) worker.device = request.device();
  worker.last_seen = now;
  worker.last_heartbeat_time = wall;
  return silence;
}

std::optional<WorkerInfo> WorkerTable::Find(
    const std::string& worker_name) const {
  absl::MutexLock lock(&mu_);
  const auto it = workers_.find(worker_name);
  if (it == workers_.end()) return std::nullopt;
  return it->second;
}

std::vector<WorkerInfo> WorkerTable::All() const {
  absl::MutexLock lock(&mu_);
  std::vector<WorkerInfo> all;
  for (const auto& [name, worker] : workers_) all.push_back(worker);
  return all;
}

bool WorkerTable::BeginGrant(const std::string& worker_name) {
  absl::MutexLock lock(&mu_);
  return being_granted_.insert(worker_name).second;
}

void WorkerTable::EndGrant(const std::string& worker_name) {
  absl::MutexLock lock(&mu_);
  being_granted_.erase(worker_name);
}

int64_t WorkerTable::AddWake(const std::string& worker_name,
                             std::function<void()> wake) {
  absl::MutexLock lock(&mu_);
  const int64_t subscription = next_wake_++;
  wakes_[subscription] = WakeEntry{worker_name, std::move(wake)};
  return subscription;
}

void WorkerTable::RemoveWake(int64_t subscription) {
  absl::MutexLock lock(&mu_);
  wakes_.erase(subscription);
}

void WorkerTable::Wake(const std::string& worker_name) {
  std::vector<std::function<void()>> calls;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [subscription, entry] : wakes_) {
      if (entry.worker_name == worker_name) calls.push_back(entry.wake);
    }
  }
  for (const std::function<void()>& call : calls) call();
}

}  // namespace quantd::scheduler
