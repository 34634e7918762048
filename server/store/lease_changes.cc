// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>

#include "proto/base/status_macros.h"
#include "server/store/changes.h"
#include "server/store/rows.h"

namespace quantd::store {
namespace {

// The front of the job's priority band.
absl::StatusOr<int64_t> HeadRank(Connection& db, const JobRecord& job) {
  ASSIGN_OR_RETURN(Statement head,
                   db.Prepare("SELECT min(queue_rank) FROM jobs "
                              "WHERE state = 2 AND priority = ?"));
  head.Int(job.spec.priority());
  ASSIGN_OR_RETURN(const bool row, head.Step());
  if (!row || head.IsNull(0)) return job.queue_rank;
  return std::min(job.queue_rank, head.ColumnInt(0) - 1);
}

absl::Status CloseAttempt(Connection& db, const JobRecord& after,
                          const FinishedAttempt& finished) {
  ASSIGN_OR_RETURN(
      Statement update,
      db.Prepare("UPDATE attempts SET ended_at = ?, ended_state = ?, "
                 "result_digest = ?, failure = ?, log_tail = ? "
                 "WHERE job_id = ? AND epoch = ?"));
  update.Time(finished.now)
      .Int(after.state)
      .Text(finished.result_digest)
      .Blob(finished.failure.SerializeAsString())
      .Text(finished.log_tail)
      .Text(after.job_id)
      .Int(finished.lease.epoch);
  return update.Run();
}

// What the outcome makes of the job, as one guarded update with its event.
absl::StatusOr<JobRecord> ApplyOutcome(Transaction& tx, const JobRecord& before,
                                       const Outcome& outcome,
                                       spec::Actor actor, absl::Time now) {
  JobRecord after = before;
  after.state = outcome.to;
  after.phase.clear();
  after.failure = outcome.failure;
  after.transient_failures = outcome.transient_failures;
  after.resource_failures = outcome.resource_failures;
  after.unproductive_losses = outcome.unproductive_losses;
  after.steps_at_last_loss = outcome.steps_at_last_loss;
  if (outcome.restore_attempt) --after.attempt;
  if (outcome.to == v1::JOB_STATE_PENDING) {
    after.pending_reason = "BACKOFF";
    after.backoff = outcome.backoff;
    after.backoff_since = now;
  }
  if (outcome.requeue_at_head) {
    ASSIGN_OR_RETURN(after.queue_rank, HeadRank(tx.db(), before));
  }
  RETURN_IF_ERROR(ChangeState(tx, before, after, actor, now));
  return after;
}

// The state that this very end led to before, or LEASE_LOST.
absl::StatusOr<v1::JobState> RepeatedFinish(Connection& db,
                                            const FinishedAttempt& finished) {
  const LeaseKey& lease = finished.lease;
  ASSIGN_OR_RETURN(
      Statement find,
      db.Prepare("SELECT ended_state FROM attempts WHERE job_id = ? AND "
                 "epoch = ? AND incarnation = ? AND result_digest = ? AND "
                 "ended_state IS NOT NULL"));
  find.Text(lease.job_id)
      .Int(lease.epoch)
      .Text(lease.incarnation)
      .Text(finished.result_digest);
  ASSIGN_OR_RETURN(const bool found, find.Step());
  if (!found) return LeaseLost(lease);
  return static_cast<v1::JobState>(find.ColumnInt(0));
}

absl::Status InsertArtifact(Connection& db, const v1::Artifact& artifact,
                            absl::Time now, const HasBlobFn& has_blob) {
  ASSIGN_OR_RETURN(Statement insert,
                   db.Prepare("INSERT INTO artifacts (artifact_id, job_id, "
                              "name, body, created_at) "
                              "VALUES (?, ?, ?, ?, ?)"));
  insert.Text(artifact.artifact_id())
      .Text(artifact.job_id())
      .Text(artifact.name())
      .Blob(artifact.SerializeAsString())
      .Time(now);
  RETURN_IF_ERROR(insert.Run());
  auto add_blob = [&](const std::string& path,
                      const v1::BlobRef& blob) -> absl::Status {
    if (!has_blob(blob.sha256())) return BlobMissing(blob.sha256());
    ASSIGN_OR_RETURN(Statement row, db.Prepare("INSERT INTO artifact_blobs "
                                               "VALUES (?, ?, ?, ?)"));
    return row.Text(artifact.artifact_id())
        .Text(path)
        .Text(blob.sha256())
        .Int(blob.size_bytes())
        .Run();
  };
  for (const v1::ArtifactFile& file : artifact.files()) {
    RETURN_IF_ERROR(add_blob(file.path(), file.blob()));
  }
  // No file of an artifact has an empty path.
  if (artifact.has_manifest()) {
    RETURN_IF_ERROR(add_blob("", artifact.manifest()));
  }
  return absl::OkStatus();
}

absl::Status StoreReport(Connection& db, const FinishedAttempt& finished) {
  ASSIGN_OR_RETURN(Statement update,
                   db.Prepare("UPDATE jobs SET report = ? WHERE job_id = ?"));
  return update.Blob(finished.report.SerializeAsString())
      .Text(finished.lease.job_id)
      .Run();
}

}  // namespace

absl::StatusOr<JobRecord> GrantLease(Transaction& tx, const std::string& job_id,
                                     const std::string& worker_name,
                                     const std::string& incarnation,
                                     absl::Time now) {
  ASSIGN_OR_RETURN(const JobRecord before, LoadJob(tx.db(), job_id));
  JobRecord after = before;
  after.state = v1::JOB_STATE_LEASED;
  after.epoch = before.epoch + 1;
  after.attempt = before.attempt + 1;
  after.worker_name = worker_name;
  after.incarnation = incarnation;
  if (!after.start_time.has_value()) after.start_time = now;
  RETURN_IF_ERROR(ChangeState(tx, before, after, spec::Actor::kServer, now));
  RETURN_IF_ERROR(InsertAttempt(tx.db(), after, now));
  return after;
}

absl::StatusOr<JobRecord> EndLease(Transaction& tx, const LeaseKey& lease,
                                   const DecideFn& decide, absl::Time now) {
  ASSIGN_OR_RETURN(const JobRecord before, LoadLeased(tx.db(), lease));
  const Outcome outcome = decide(before);
  ASSIGN_OR_RETURN(JobRecord after, ApplyOutcome(tx, before, outcome,
                                                 spec::Actor::kServer, now));
  FinishedAttempt ended;
  ended.lease = lease;
  ended.failure = outcome.failure;
  ended.now = now;
  RETURN_IF_ERROR(CloseAttempt(tx.db(), after, ended));
  return after;
}

absl::StatusOr<JobRecord> ReleasePending(Transaction& tx,
                                         const std::string& job_id,
                                         absl::Time now) {
  ASSIGN_OR_RETURN(const JobRecord before, LoadJob(tx.db(), job_id));
  // A lost lease leads to QUEUED as well, but not from here.
  if (before.state != v1::JOB_STATE_PENDING) {
    return StateConflict(before, v1::JOB_STATE_QUEUED);
  }
  JobRecord after = before;
  after.state = v1::JOB_STATE_QUEUED;
  RETURN_IF_ERROR(ChangeState(tx, before, after, spec::Actor::kServer, now));
  return after;
}

absl::StatusOr<JobRecord> FailQueued(Transaction& tx, const std::string& job_id,
                                     const v1::Failure& failure,
                                     absl::Time now) {
  ASSIGN_OR_RETURN(const JobRecord before, LoadJob(tx.db(), job_id));
  if (before.state != v1::JOB_STATE_QUEUED) {
    return StateConflict(before, v1::JOB_STATE_FAILED);
  }
  JobRecord after = before;
  after.state = v1::JOB_STATE_FAILED;
  after.failure = failure;
  RETURN_IF_ERROR(ChangeState(tx, before, after, spec::Actor::kServer, now));
  return after;
}

absl::Status MarkRunning(Transaction& tx, const LeaseKey& lease,
                         absl::Time now) {
  ASSIGN_OR_RETURN(const JobRecord before, LoadLeased(tx.db(), lease));
  if (before.state != v1::JOB_STATE_LEASED) return absl::OkStatus();
  JobRecord after = before;
  after.state = v1::JOB_STATE_RUNNING;
  return ChangeState(tx, before, after, spec::Actor::kWorker, now);
}

absl::Status SetPhase(Transaction& tx, const LeaseKey& lease,
                      const std::string& phase) {
  ASSIGN_OR_RETURN(
      Statement update,
      tx.db().Prepare("UPDATE jobs SET phase = ? WHERE job_id = ? AND "
                      "epoch = ? AND incarnation = ? AND state IN (3, 4, 5) "
                      "AND incarnation <> ''"));
  RETURN_IF_ERROR(update.Text(phase)
                      .Text(lease.job_id)
                      .Int(lease.epoch)
                      .Text(lease.incarnation)
                      .Run());
  return tx.db().changes() == 1 ? absl::OkStatus() : LeaseLost(lease);
}

absl::StatusOr<v1::JobState> FinishAttempt(Transaction& tx,
                                           const FinishedAttempt& finished,
                                           const DecideFn& decide,
                                           const HasBlobFn& has_blob) {
  const absl::StatusOr<JobRecord> before = LoadLeased(tx.db(), finished.lease);
  if (absl::IsFailedPrecondition(before.status())) {
    return RepeatedFinish(tx.db(), finished);
  }
  if (!before.ok()) return before.status();
  ASSIGN_OR_RETURN(JobRecord after,
                   ApplyOutcome(tx, *before, decide(*before),
                                spec::Actor::kWorker, finished.now));
  RETURN_IF_ERROR(CloseAttempt(tx.db(), after, finished));
  if (after.state == v1::JOB_STATE_SUCCEEDED) {
    RETURN_IF_ERROR(StoreReport(tx.db(), finished));
    for (const v1::Artifact& artifact : finished.artifacts) {
      RETURN_IF_ERROR(
          InsertArtifact(tx.db(), artifact, finished.now, has_blob));
    }
  }
  return after.state;
}

absl::Status RegisterWorker(Transaction& tx, const WorkerRecord& worker,
                            const v1::Catalog& catalog) {
  ASSIGN_OR_RETURN(
      Statement upsert,
      tx.db().Prepare("INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?, ?)"));
  RETURN_IF_ERROR(upsert.Text(worker.worker_name)
                      .Text(worker.incarnation)
                      .Blob(worker.device.SerializeAsString())
                      .Text(worker.code_version)
                      .Time(worker.registered_time)
                      .Run());
  ASSIGN_OR_RETURN(Statement newest, tx.db().Prepare("INSERT OR REPLACE INTO "
                                                     "catalog VALUES (1, ?)"));
  return newest.Blob(catalog.SerializeAsString()).Run();
}

}  // namespace quantd::store
