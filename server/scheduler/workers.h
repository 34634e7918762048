// SPDX-License-Identifier: Apache-2.0
// The workers this server process has heard from, and how to wake them.
// Thread-safe. Leases are kept elsewhere (lease.h).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "quantd/v1/worker.pb.h"

namespace quantd::scheduler {

struct WorkerInfo {
  std::string worker_name;
  std::string incarnation;
  v1::Device device;
  v1::Catalog catalog;
  bool accepts_work = false;
  // Monotonic, for liveness, and wall, for people.
  absl::Duration last_seen;
  absl::Time last_heartbeat_time;
};

class WorkerTable {
 public:
  // Replaces an older incarnation of the same name.
  void Register(const v1::RegisterRequest& request, absl::Duration now,
                absl::Time wall);
  // Notes a sign of life. The time since the one before; nothing where this
  // incarnation is not registered.
  std::optional<absl::Duration> Seen(const v1::SynchronizeRequest& request,
                                     absl::Duration now, absl::Time wall);
  std::optional<WorkerInfo> Find(const std::string& worker_name) const;
  std::vector<WorkerInfo> All() const;

  // True for one caller at a time, until EndGrant: a worker that asks twice at
  // once gets one job.
  bool BeginGrant(const std::string& worker_name);
  void EndGrant(const std::string& worker_name);

  int64_t AddWake(const std::string& worker_name, std::function<void()> wake);
  void RemoveWake(int64_t subscription);
  // Calls the wake functions of this worker, outside the lock.
  void Wake(const std::string& worker_name);

 private:
  struct WakeEntry {
    std::string worker_name;
    std::function<void()> wake;
  };
  mutable absl::Mutex mu_;
  std::map<std::string, WorkerInfo> workers_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> being_granted_ ABSL_GUARDED_BY(mu_);
  std::map<int64_t, WakeEntry> wakes_ ABSL_GUARDED_BY(mu_);
  int64_t next_wake_ ABSL_GUARDED_BY(mu_) = 1;
};

}  // namespace quantd::scheduler
