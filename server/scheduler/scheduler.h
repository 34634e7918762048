// SPDX-License-Identifier: Apache-2.0
// Who works on what: workers, leases and time. Workers pull: a job is granted
// inside Synchronize, and Wake tells an idle worker to call it. The loop thread
// expires leases, ends backoffs and wakes workers; time is the server's
// monotonic clock alone. Thread-safe; no lock is held across the store.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/base/clock.h"
#include "quantd/v1/services.pb.h"
#include "server/jobs/jobs.h"
#include "server/metrics/metrics.h"
#include "server/scheduler/lease.h"
#include "server/scheduler/workers.h"
#include "server/store/store.h"

namespace quantd::scheduler {

// Why a QUEUED job is not running, most fundamental reason first.
struct QueueWait {
  // SERVER_STOPPING, NO_WORKER, NO_CAPABLE_WORKER, WORKERS_DRAINING,
  // WORKERS_BUSY or ABOUT_TO_START.
  std::string reason;
  // Of NO_CAPABLE_WORKER: a component that is missing, "method gptq".
  std::string missing;
  int64_t num_capable = 0;
  // Of ABOUT_TO_START: who takes it.
  std::string free_worker;
};

class Scheduler {
 public:
  struct Options {
    store::Store* store = nullptr;
    jobs::Jobs* jobs = nullptr;
    base::Clock* clock = nullptr;
    // Fresh at every server start; workers register again when it changes.
    std::string boot_id;
    absl::Duration lease_ttl = absl::Seconds(30);
    absl::Duration synchronize_interval = absl::Seconds(5);
    // Matching happens on every change; this is the net below it.
    absl::Duration fallback_interval = absl::Seconds(5);
    // May be null.
    metrics::Metrics* metrics = nullptr;
  };
  explicit Scheduler(Options options);
  ~Scheduler();

  // Gives every live lease one full TTL and arms the backoffs; no thread yet.
  absl::Status Recover();
  // Starts and stops the loop thread.
  void Start();
  void Stop();
  // One round of the loop: what tests call instead of Start.
  void Tick();

  // --- WorkerService -------------------------------------------------------
  absl::StatusOr<v1::RegisterResponse> Register(
      const v1::RegisterRequest& request);
  absl::StatusOr<v1::SynchronizeResponse> Synchronize(
      const v1::SynchronizeRequest& request);
  absl::Status CommitStep(const v1::CommitStepRequest& request);
  absl::StatusOr<v1::FinishResponse> Finish(const v1::FinishRequest& request);
  // `wake` is called, without locks, whenever Synchronize would answer
  // differently. Ends with Unsubscribe. FAILED_PRECONDITION,
  // WORKER_NOT_REGISTERED.
  absl::StatusOr<int64_t> SubscribeWake(const v1::WakeRequest& request,
                                        std::function<void()> wake);
  void UnsubscribeWake(int64_t subscription);

  // --- Clients -------------------------------------------------------------
  absl::StatusOr<v1::ExplainJobResponse> Explain(const std::string& id);
  std::vector<v1::WorkerStatus> ListWorkers();
  // What a QUEUED job with this spec waits for, as one word.
  std::string WaitReason(const v1::JobSpec& spec);
  // All waiting jobs by that word and by the pending_reason of PENDING ones,
  // every known word included. Looks at the head of the queue only: those
  // behind are counted as WORKERS_BUSY, or as what holds for every job.
  std::map<std::string, int64_t> CountWaiting(const store::WaitingJobs& waiting,
                                              int64_t num_queued);

  // Stops granting, for a server that is about to exit.
  void StopGranting();
  // To be called with every committed event, in order, from the store's writer
  // thread (see Core). Calls nothing back.
  void OnEvents(const std::vector<v1::Event>& events);

 private:
  using LeaseList = google::protobuf::RepeatedPtrField<v1::HeldWork>;

  void Loop();
  absl::Duration NextTimer();
  void ExpireLeases();
  void ReleaseBackoffs();
  void WakeWorkers();
  void RemoveBlobsNowAndThen();
  void HandleHeld(const v1::HeldWork& held);
  // Ends a lease in the store, then here; a lease that was lost already is
  // forgotten, any other error leaves it for the next round.
  void Lose(const LiveLease& live, const std::string& reason);
  void TryGrant(const WorkerInfo& worker);
  void CountResume(const v1::Assignment& granted);
  absl::Status AddDesired(const LiveLease& live, const LeaseList& held,
                          v1::SynchronizeResponse& response);
  void NoteStateChange(const v1::Event& event);
  std::vector<WorkerInfo> AliveWorkers();
  QueueWait WaitOf(const v1::JobSpec& spec,
                   const std::vector<WorkerInfo>& alive);
  std::vector<std::string> ExplainQueued(const store::JobRecord& job,
                                         int64_t jobs_ahead);
  bool granting();

  // Constant after construction.
  const Options options_;
  // Self-synchronized.
  LeaseTable leases_;
  WorkerTable workers_;
  // Guarded by mu_, which is never held across a call to the store.
  absl::Mutex mu_;
  bool changed_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool granting_ ABSL_GUARDED_BY(mu_) = true;
  // Monotonic time at which a PENDING job's wait is over.
  std::map<std::string, absl::Duration> backoffs_ ABSL_GUARDED_BY(mu_);
  // Workers whose jobs are to be stopped.
  std::set<std::string> to_wake_ ABSL_GUARDED_BY(mu_);
  // Touched by Tick only.
  absl::Duration next_cleaning_;
  std::thread thread_;
};

}  // namespace quantd::scheduler
