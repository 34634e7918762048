// SPDX-License-Identifier: Apache-2.0
// The bodies of the write transactions. Each runs on the writer thread inside
// its own savepoint; an error undoes all of it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/spec/job_states.h"
#include "server/store/records.h"
#include "server/store/store.h"
#include "server/store/writer.h"

namespace quantd::store {

// True where the blob store has this blob.
using HasBlobFn = std::function<bool(const std::string&)>;

// --- The common ground -------------------------------------------------------
// Checks the change against proto/spec, writes it with its event and announces
// that. `after` starts as a copy of `before`. FAILED_PRECONDITION: LEASE_LOST
// for workers, JOB_STATE_CONFLICT for others.
absl::Status ChangeState(Transaction& tx, const JobRecord& before,
                         JobRecord& after, spec::Actor actor, absl::Time now);
// The next number of the job's history; the caller stores the record.
absl::Status AppendEvent(Transaction& tx, JobRecord& job, v1::Event event,
                         absl::Time now);
// The job whose current lease this is. FAILED_PRECONDITION, LEASE_LOST.
absl::StatusOr<JobRecord> LoadLeased(Connection& db, const LeaseKey& lease);
// FAILED_PRECONDITION, JOB_STATE_CONFLICT.
absl::Status StateConflict(const JobRecord& job, v1::JobState wanted);
absl::Status LeaseLost(const LeaseKey& lease);

// --- Clients (client_changes.cc) ---------------------------------------------
absl::StatusOr<SubmitResult> SubmitJob(Transaction& tx, const NewJob& job);
absl::StatusOr<JobRecord> CancelJob(Transaction& tx, const std::string& job_id,
                                    absl::Time now);
absl::StatusOr<JobRecord> RetryJob(Transaction& tx, const std::string& job_id,
                                   absl::Time now);

// --- Leases (lease_changes.cc) -----------------------------------------------
absl::StatusOr<JobRecord> GrantLease(Transaction& tx, const std::string& job_id,
                                     const std::string& worker_name,
                                     const std::string& incarnation,
                                     absl::Time now);
absl::StatusOr<JobRecord> EndLease(Transaction& tx, const LeaseKey& lease,
                                   const DecideFn& decide, absl::Time now);
absl::StatusOr<JobRecord> ReleasePending(Transaction& tx,
                                         const std::string& job_id,
                                         absl::Time now);
absl::StatusOr<JobRecord> FailQueued(Transaction& tx, const std::string& job_id,
                                     const v1::Failure& failure,
                                     absl::Time now);
absl::Status MarkRunning(Transaction& tx, const LeaseKey& lease,
                         absl::Time now);
absl::Status SetPhase(Transaction& tx, const LeaseKey& lease,
                      const std::string& phase);
absl::StatusOr<v1::JobState> FinishAttempt(Transaction& tx,
                                           const FinishedAttempt& finished,
                                           const DecideFn& decide,
                                           const HasBlobFn& has_blob);
absl::Status RegisterWorker(Transaction& tx, const WorkerRecord& worker,
                            const v1::Catalog& catalog);

// --- Steps (step_changes.cc) -------------------------------------------------
absl::Status CommitStep(Transaction& tx, const LeaseKey& lease,
                        const v1::Step& step, absl::Time now,
                        const HasBlobFn& has_blob);
absl::StatusOr<int64_t> DropSuperseded(
    Transaction& tx, const std::string& job_id,
    const std::function<void(const std::string&)>& remove);
absl::StatusOr<int64_t> DropOrphans(
    Transaction& tx, const std::vector<std::string>& blobs,
    const std::function<void(const std::string&)>& remove);
absl::Status BlobMissing(const std::string& sha256);

}  // namespace quantd::store
