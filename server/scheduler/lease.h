// SPDX-License-Identifier: Apache-2.0
// The live leases and when they end. A lease is granted with a fresh epoch by
// the store; here only time is kept, on the server's monotonic clock, so that a
// step of the wall clock changes nothing. Thread-safe; pure bookkeeping.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "quantd/v1/worker.pb.h"

namespace quantd::scheduler {

struct LiveLease {
  v1::Lease lease;
  std::string worker_name;
  // Monotonic time of expiry.
  absl::Duration deadline;
  // The worker has said at least once that it holds it.
  bool acknowledged = false;
  // The store knows that it runs.
  bool running = false;
};

class LeaseTable {
 public:
  explicit LeaseTable(absl::Duration ttl) : ttl_(ttl) {}

  // Replaces an older lease of the same job; ignored where a newer one is live.
  void Add(const v1::Lease& lease, const std::string& worker_name,
           absl::Duration now);
  // One more TTL. False where `lease` is not the live one: it was lost.
  bool Renew(const v1::Lease& lease, bool acknowledged, absl::Duration now);
  // The store has been told that it runs.
  void NoteRunning(const v1::Lease& lease);
  // Ends `lease`; a newer one of the same job stays.
  void Remove(const v1::Lease& lease);

  std::optional<LiveLease> Find(const std::string& job_id) const;
  std::vector<LiveLease> OfWorker(const std::string& worker_name) const;
  // Leases whose deadline has come; they stay until removed.
  std::vector<LiveLease> Expired(absl::Duration now) const;
  // The next deadline; infinite without leases.
  absl::Duration NextDeadline() const;

 private:
  const absl::Duration ttl_;
  mutable absl::Mutex mu_;
  std::map<std::string, LiveLease> by_job_ ABSL_GUARDED_BY(mu_);
};

}  // namespace quantd::scheduler
