// SPDX-License-Identifier: Apache-2.0
#include "server/store/changes.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/time_util.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "server/store/rows.h"

namespace quantd::store {
namespace {

// Holds the attempt's failure even where the job itself goes on.
v1::Event StateEvent(const JobRecord& before, const JobRecord& after) {
  v1::Event event;
  v1::StateChanged& change = *event.mutable_state_changed();
  change.set_from(before.state);
  change.set_to(after.state);
  change.set_pending_reason(after.pending_reason);
  if (!after.failure.failure_class().empty()) {
    *change.mutable_failure() = after.failure;
  }
  change.set_worker_name(after.worker_name);
  change.set_attempt(after.attempt);
  change.set_epoch(after.epoch);
  return event;
}

}  // namespace

absl::Status ChangeState(Transaction& tx, const JobRecord& before,
                         JobRecord& after, spec::Actor actor, absl::Time now) {
  RETURN_IF_ERROR(spec::CheckTransition(before.state, after.state, actor));
  if (!spec::HoldsLease(after.state)) after.incarnation.clear();
  if (after.state != v1::JOB_STATE_PENDING) after.pending_reason.clear();
  const v1::Event event = StateEvent(before, after);
  if (after.state != v1::JOB_STATE_FAILED) after.failure.Clear();
  after.end_time = spec::IsTerminal(after.state)
                       ? std::optional<absl::Time>(now)
                       : std::nullopt;
  RETURN_IF_ERROR(AppendEvent(tx, after, event, now));
  ASSIGN_OR_RETURN(const bool updated, UpdateJob(tx.db(), before, after));
  if (!updated) {
    return LeaseLost({before.job_id, before.epoch, before.incarnation});
  }
  return absl::OkStatus();
}

absl::Status AppendEvent(Transaction& tx, JobRecord& job, v1::Event event,
                         absl::Time now) {
  ++job.last_event_seq;
  event.set_job_id(job.job_id);
  event.set_seq(job.last_event_seq);
  *event.mutable_time() =
      google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(ToMicros(now));
  ASSIGN_OR_RETURN(Statement insert,
                   tx.db().Prepare("INSERT INTO events VALUES (?, ?, ?)"));
  insert.Text(job.job_id)
      .Int(job.last_event_seq)
      .Blob(event.SerializeAsString());
  RETURN_IF_ERROR(insert.Run());
  tx.Announce(std::move(event));
  return absl::OkStatus();
}

absl::StatusOr<JobRecord> LoadLeased(Connection& db, const LeaseKey& lease) {
  absl::StatusOr<JobRecord> job = LoadJob(db, lease.job_id);
  if (absl::IsNotFound(job.status())) return LeaseLost(lease);
  if (!job.ok()) return job.status();
  if (lease.incarnation.empty() || job->epoch != lease.epoch ||
      job->incarnation != lease.incarnation) {
    return LeaseLost(lease);
  }
  return job;
}

absl::Status StateConflict(const JobRecord& job, v1::JobState wanted) {
  const std::string state = spec::JobStateName(job.state);
  return base::MakeError(
      absl::StatusCode::kFailedPrecondition, "JOB_STATE_CONFLICT",
      absl::StrCat("job ", job.job_id, " is ", state, " and cannot become ",
                   spec::JobStateName(wanted)),
      {{"state", state}, {"wanted", spec::JobStateName(wanted)}});
}

absl::Status LeaseLost(const LeaseKey& lease) {
  return base::MakeError(
      absl::StatusCode::kFailedPrecondition, "LEASE_LOST",
      absl::StrCat("lease ", lease.epoch, " of job ", lease.job_id,
                   " is no longer valid; stop working on it"),
      {{"job_id", lease.job_id}, {"epoch", absl::StrCat(lease.epoch)}});
}

}  // namespace quantd::store
