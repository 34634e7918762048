// SPDX-License-Identifier: Apache-2.0
// Registration, the Synchronize exchange and the Wake stream, on two threads
// that do nothing else. It keeps the time since the server last answered, which
// is what a lease rests on.
#pragma once

#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/base/clock.h"
#include "quantd/v1/worker.pb.h"
#include "worker/agent/server_link.h"

namespace quantd::agent {

// When a worker gives up its leases: this long after the last beat that was
// acknowledged. Earlier than the server does, so that the two never overlap.
absl::Duration FenceAfter(absl::Duration lease_ttl);

// How long to wait between beats.
absl::Duration BeatInterval(absl::Duration lease_ttl);

// Answers from the beat thread.
class HeartbeatSource {
 public:
  virtual ~HeartbeatSource() = default;
  virtual v1::RegisterRequest MakeRegister() = 0;
  // boot_id is filled in by the caller.
  virtual v1::SynchronizeRequest MakeSynchronize() = 0;
  // Must not wait for anything slow.
  virtual void OnSynchronized(const v1::SynchronizeResponse& response) = 0;
};

// Thread-safe; the references outlive it.
class Heartbeat {
 public:
  // Begins at once.
  Heartbeat(ServerLink& link, HeartbeatSource& source, base::Clock& clock);
  ~Heartbeat();

  // Beat now: something changed here or there.
  void Poke();
  // Time left until the fence; zero or less: leases are void. Infinite before
  // the first acknowledged beat.
  absl::Duration TimeToFence();
  // Beats that were due while an earlier one had no answer yet.
  int64_t skipped_beats() const;

 private:
  void RunBeats();
  void RunWakes();
  bool Register();
  void Beat();
  void CountSkipped(absl::Duration begin);
  // Waits for a poke, the end, or `pause`. False at the end.
  bool Pause(absl::Duration pause);
  bool PokedOrStopping() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  ServerLink& link_;
  HeartbeatSource& source_;
  base::Clock& clock_;
  CallGroup wake_calls_;

  mutable absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool poked_ ABSL_GUARDED_BY(mu_) = false;
  bool registered_ ABSL_GUARDED_BY(mu_) = false;
  std::string boot_id_ ABSL_GUARDED_BY(mu_);
  absl::Duration lease_ttl_ ABSL_GUARDED_BY(mu_) = absl::Seconds(30);
  absl::Duration interval_ ABSL_GUARDED_BY(mu_) = absl::Seconds(1);
  // Monotonic time at which the last acknowledged beat was SENT: the server's
  // clock for the lease started at that moment or later.
  absl::Duration last_beat_ ABSL_GUARDED_BY(mu_) = absl::InfiniteDuration();
  int64_t skipped_ ABSL_GUARDED_BY(mu_) = 0;
  bool answered_ ABSL_GUARDED_BY(mu_) = true;

  std::thread beats_;
  std::thread wakes_;
};

}  // namespace quantd::agent
