// SPDX-License-Identifier: Apache-2.0
// The durable truth: named transactions over jobs, leases, steps, events and
// artifacts. Thread-safe. A write returns after its commit has reached the
// disk; events of a write are handed to the event sink in commit order, before
// the write returns. Reads see the last commit. No rule about retries or
// placement lives here; the legal state changes come from proto/spec.
//
// Every call may fail with UNAVAILABLE (STORE_UNAVAILABLE) or
// RESOURCE_EXHAUSTED (DISK_FULL); then nothing was changed.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/store/records.h"

namespace quantd::store {

// Runs on the writer thread: quick, no call back into the store.
using EventSink = std::function<void(const std::vector<v1::Event>&)>;
// Pure: from the record before the attempt's end to what follows.
using DecideFn = std::function<Outcome(const JobRecord&)>;

class Store {
 public:
  virtual ~Store() = default;

  // Call before the first write.
  virtual void SetEventSink(EventSink sink) = 0;

  // --- Clients -------------------------------------------------------------
  // A new QUEUED job, or the job that request_id already names.
  // ALREADY_EXISTS, REQUEST_ID_REUSED where that one has another digest.
  virtual absl::StatusOr<SubmitResult> SubmitJob(const NewJob& job) = 0;
  // PENDING and QUEUED end CANCELLED at once, LEASED and RUNNING become
  // CANCELLING, other states stay. NOT_FOUND, JOB_NOT_FOUND.
  virtual absl::StatusOr<JobRecord> CancelJob(const std::string& job_id,
                                              absl::Time now) = 0;
  // FAILED and CANCELLED become QUEUED with fresh retry counters.
  // FAILED_PRECONDITION, JOB_STATE_CONFLICT in any other state.
  virtual absl::StatusOr<JobRecord> RetryJob(const std::string& job_id,
                                             absl::Time now) = 0;

  // --- Scheduler -----------------------------------------------------------
  // QUEUED to LEASED with epoch + 1. FAILED_PRECONDITION, JOB_STATE_CONFLICT.
  virtual absl::StatusOr<JobRecord> GrantLease(const std::string& job_id,
                                               const std::string& worker_name,
                                               const std::string& incarnation,
                                               absl::Time now) = 0;
  // The server ends a lease (expired, replaced incarnation, drain). LEASE_LOST
  // where `lease` is not the current one.
  virtual absl::StatusOr<JobRecord> EndLease(const LeaseKey& lease,
                                             const DecideFn& decide,
                                             absl::Time now) = 0;
  // PENDING to QUEUED. FAILED_PRECONDITION, JOB_STATE_CONFLICT.
  virtual absl::StatusOr<JobRecord> ReleasePending(const std::string& job_id,
                                                   absl::Time now) = 0;
  // QUEUED to FAILED: can never run, for example its source is gone.
  virtual absl::StatusOr<JobRecord> FailQueued(const std::string& job_id,
                                               const v1::Failure& failure,
                                               absl::Time now) = 0;

  // --- Workers: FAILED_PRECONDITION, LEASE_LOST for a stale lease ----------
  // LEASED to RUNNING; OK where it runs already or is being cancelled.
  virtual absl::Status MarkRunning(const LeaseKey& lease, absl::Time now) = 0;
  virtual absl::Status SetPhase(const LeaseKey& lease,
                                const std::string& phase) = 0;
  // Stores the step and its event. The same step again is OK and changes
  // nothing; a new fingerprint becomes the current one. FAILED_PRECONDITION:
  // BLOB_MISSING, STEP_CONFLICT (committed before with other blobs).
  virtual absl::Status CommitStep(const LeaseKey& lease, const v1::Step& step,
                                  absl::Time now) = 0;
  // Ends the attempt, publishes the artifacts, decides what follows. The same
  // end again (epoch, incarnation, digest) returns the state it led to.
  // FAILED_PRECONDITION, BLOB_MISSING.
  virtual absl::StatusOr<v1::JobState> FinishAttempt(
      const FinishedAttempt& finished, const DecideFn& decide) = 0;
  virtual absl::Status RegisterWorker(const WorkerRecord& worker,
                                      const v1::Catalog& catalog) = 0;
  // Forgets the "activations" of the job's steps that a newer step has
  // superseded (of all its steps once it has SUCCEEDED) and calls `remove`
  // with each blob that no row needs any more. Returns their number. Runs with
  // the writes, so that no commit can name a blob while it goes.
  virtual absl::StatusOr<int64_t> DropSuperseded(
      const std::string& job_id,
      const std::function<void(const std::string&)>& remove) = 0;

  // Calls `remove` with each of `blobs` that no row needs; runs as the above.
  // Returns how many times.
  virtual absl::StatusOr<int64_t> DropOrphans(
      const std::vector<std::string>& blobs,
      const std::function<void(const std::string&)>& remove) = 0;

  // --- Reads ---------------------------------------------------------------
  // A full id or a unique prefix of at least 4 characters. NOT_FOUND
  // (JOB_NOT_FOUND), INVALID_ARGUMENT (JOB_ID_TOO_SHORT, JOB_ID_AMBIGUOUS).
  virtual absl::StatusOr<JobRecord> GetJob(const std::string& id_or_prefix) = 0;
  // Newest first, ordinals below `before` (0: from the newest).
  virtual absl::StatusOr<JobPage> ListJobs(const JobFilter& filter,
                                           int64_t before,
                                           int32_t page_size) = 0;
  // QUEUED jobs in the order they are to be granted.
  virtual absl::StatusOr<std::vector<JobRecord>> QueueHead(int32_t limit) = 0;
  // QUEUED jobs before `job_id` in that order.
  virtual absl::StatusOr<int64_t> JobsAhead(const std::string& job_id) = 0;
  // LEASED, RUNNING and CANCELLING jobs.
  virtual absl::StatusOr<std::vector<JobRecord>> LeasedJobs() = 0;
  virtual absl::StatusOr<std::vector<JobRecord>> PendingJobs() = 0;
  virtual absl::StatusOr<std::map<v1::JobState, int64_t>> CountJobs() = 0;
  virtual absl::StatusOr<WaitingJobs> Waiting() = 0;
  // Jobs of which blobs are still kept that are superseded one day, in no
  // order.
  virtual absl::StatusOr<std::vector<std::string>> JobsWithPassingBlobs() = 0;
  // At most `limit` events with seq >= from_seq, in order.
  virtual absl::StatusOr<std::vector<v1::Event>> ReadEvents(
      const std::string& job_id, int64_t from_seq, int32_t limit) = 0;
  // The contiguous prefix 0, 1, 2 ... of the newest fingerprint's steps.
  virtual absl::StatusOr<std::vector<v1::Step>> CommittedSteps(
      const std::string& job_id) = 0;
  // In the order of their epochs.
  virtual absl::StatusOr<std::vector<AttemptRecord>> Attempts(
      const std::string& job_id) = 0;
  // A full id or unique prefix (4), or "jobs/<id>": that job's first artifact.
  // NOT_FOUND, ARTIFACT_NOT_FOUND.
  virtual absl::StatusOr<v1::Artifact> GetArtifact(const std::string& name) = 0;
  // Newest first; `job_id` empty means of all jobs.
  virtual absl::StatusOr<ArtifactPage> ListArtifacts(const std::string& job_id,
                                                     int64_t before,
                                                     int32_t page_size) = 0;
  // The newest catalog any worker registered. NOT_FOUND, NO_CATALOG.
  virtual absl::StatusOr<v1::Catalog> GetCatalog() = 0;
  virtual absl::StatusOr<std::vector<WorkerRecord>> ListWorkers() = 0;
  virtual StoreStats Stats() = 0;
};

}  // namespace quantd::store
