// SPDX-License-Identifier: Apache-2.0
#include "server/scheduler/lease.h"

#include <algorithm>

namespace quantd::scheduler {
namespace {

bool Same(const v1::Lease& a, const v1::Lease& b) {
  return a.epoch() == b.epoch() && a.incarnation() == b.incarnation();
}

}  // namespace

void LeaseTable::Add(const v1::Lease& lease, const std::string& worker_name,
                     absl::Duration now) {
  absl::MutexLock lock(&mu_);
  auto [it, is_new] = by_job_.try_emplace(lease.job_id());
  if (!is_new && it->second.lease.epoch() >= lease.epoch()) return;
  it->second = LiveLease{lease, worker_name, now + ttl_, false, false};
}

bool LeaseTable::Renew(const v1::Lease& lease, bool acknowledged,
                       absl::Duration now) {
  absl::MutexLock lock(&mu_);
  const auto it = by_job_.find(lease.job_id());
  if (it == by_job_.end() || !Same(it->second.lease, lease)) return false;
  it->second.deadline = std::max(it->second.deadline, now + ttl_);
  it->second.acknowledged = it->second.acknowledged || acknowledged;
  return true;
}

void LeaseTable::NoteRunning(const v1::Lease& lease) {
  absl::MutexLock lock(&mu_);
  const auto it = by_job_.find(lease.job_id());
  if (it != by_job_.end() && Same(it->second.lease, lease)) {
    it->second.running = true;
  }
}

void LeaseTable::Remove(const v1::Lease& lease) {
  absl::MutexLock lock(&mu_);
  const auto it = by_job_.find(lease.job_id());
  if (it != by_job_.end() && it->second.lease.epoch() <= lease.epoch()) {
    by_job_.erase(it);
  }
}

std::optional<LiveLease> LeaseTable::Find(const std::string& job_id) const {
  absl::MutexLock lock(&mu_);
  const auto it = by_job_.find(job_id);
  if (it == by_job_.end()) return std::nullopt;
  return it->second;
}

std::vector<LiveLease> LeaseTable::OfWorker(
    const std::string& worker_name) const {
  absl::MutexLock lock(&mu_);
  std::vector<LiveLease> result;
  for (const auto& [job_id, lease] : by_job_) {
    if (lease.worker_name == worker_name) result.push_back(lease);
  }
  return result;
}

std::vector<LiveLease> LeaseTable::Expired(absl::Duration now) const {
  absl::MutexLock lock(&mu_);
  std::vector<LiveLease> result;
  for (const auto& [job_id, lease] : by_job_) {
    if (lease.deadline <= now) result.push_back(lease);
  }
  return result;
}

absl::Duration LeaseTable::NextDeadline() const {
  absl::MutexLock lock(&mu_);
  absl::Duration next = absl::InfiniteDuration();
  for (const auto& [job_id, lease] : by_job_) {
    next = std::min(next, lease.deadline);
  }
  return next;
}

}  // namespace quantd::scheduler
