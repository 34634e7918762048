// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "server/store/changes.h"
#include "server/store/rows.h"

namespace quantd::store {
namespace {

// The job that `request_id` names already; an empty id where there is none.
absl::StatusOr<JobRecord> FindRequest(Connection& db, const NewJob& job) {
  ASSIGN_OR_RETURN(
      Statement find,
      db.Prepare(
          "SELECT job_id, request_digest FROM jobs WHERE request_id = ?"));
  find.Text(job.request_id);
  ASSIGN_OR_RETURN(const bool found, find.Step());
  if (!found) return JobRecord();
  if (find.ColumnText(1) != job.request_digest) {
    return base::MakeError(
        absl::StatusCode::kAlreadyExists, "REQUEST_ID_REUSED",
        "this request id was used before with another request; choose a fresh "
        "one",
        {{"request_id", job.request_id}, {"job_id", find.ColumnText(0)}});
  }
  return LoadJob(db, find.ColumnText(0));
}

}  // namespace

absl::StatusOr<SubmitResult> SubmitJob(Transaction& tx, const NewJob& job) {
  if (!job.request_id.empty()) {
    ASSIGN_OR_RETURN(JobRecord existing, FindRequest(tx.db(), job));
    if (!existing.job_id.empty()) return SubmitResult{existing, true};
  }
  JobRecord record;
  record.job_id = job.job_id;
  record.spec = job.spec;
  record.display_name = job.display_name;
  record.request_id = job.request_id;
  record.state = v1::JOB_STATE_QUEUED;
  record.create_time = job.now;
  // The row comes first: events refer to it.
  record.last_event_seq = 1;
  RETURN_IF_ERROR(InsertJob(tx.db(), record, job.request_digest));
  record.last_event_seq = 0;
  v1::Event event;
  event.mutable_state_changed()->set_to(v1::JOB_STATE_QUEUED);
  RETURN_IF_ERROR(AppendEvent(tx, record, event, job.now));
  return SubmitResult{record, false};
}

absl::StatusOr<JobRecord> CancelJob(Transaction& tx, const std::string& job_id,
                                    absl::Time now) {
  ASSIGN_OR_RETURN(const JobRecord before, LoadJob(tx.db(), job_id));
  if (spec::IsTerminal(before.state) ||
      before.state == v1::JOB_STATE_CANCELLING) {
    return before;
  }
  JobRecord after = before;
  after.state = spec::HoldsLease(before.state) ? v1::JOB_STATE_CANCELLING
                                               : v1::JOB_STATE_CANCELLED;
  RETURN_IF_ERROR(ChangeState(tx, before, after, spec::Actor::kClient, now));
  return after;
}

absl::StatusOr<JobRecord> RetryJob(Transaction& tx, const std::string& job_id,
                                   absl::Time now) {
  ASSIGN_OR_RETURN(const JobRecord before, LoadJob(tx.db(), job_id));
  ASSIGN_OR_RETURN(const int64_t newest,
                   tx.db().QueryInt("SELECT max(ordinal) FROM jobs"));
  JobRecord after = before;
  after.state = v1::JOB_STATE_QUEUED;
  after.queue_rank = std::max(newest + 1, before.queue_rank);
  after.phase.clear();
  after.transient_failures = 0;
  after.resource_failures = 0;
  after.unproductive_losses = 0;
  after.steps_at_last_loss = after.committed_steps;
  RETURN_IF_ERROR(ChangeState(tx, before, after, spec::Actor::kClient, now));
  return after;
}

}  // namespace quantd::store
