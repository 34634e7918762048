// SPDX-License-Identifier: Apache-2.0
#include "server/store/rows.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::store {
namespace {

constexpr char kColumns[] =
    "ordinal, job_id, display_name, spec, request_id, queue_rank, state, "
    "phase, pending_reason, backoff_micros, backoff_since, failure, epoch, "
    "incarnation, worker_name, attempt, transient_failures, "
    "resource_failures, unproductive_losses, steps_at_last_loss, fingerprint, "
    "committed_steps, last_event_seq, created_at, started_at, finalized_at";

std::optional<absl::Time> OptionalTime(const Statement& row, int column) {
  if (row.IsNull(column)) return std::nullopt;
  return row.ColumnTime(column);
}

void BindOptionalTime(Statement& statement, std::optional<absl::Time> time) {
  if (time.has_value()) {
    statement.Time(*time);
  } else {
    statement.Null();
  }
}

const std::string& ModelOf(const v1::JobSpec& spec) {
  return spec.has_evaluate() ? spec.evaluate().model()
                             : spec.quantize().model();
}

void BindMutable(Statement& statement, const JobRecord& job) {
  statement.Int(job.queue_rank)
      .Int(job.state)
      .Text(job.phase)
      .Text(job.pending_reason)
      .Int(absl::ToInt64Microseconds(job.backoff))
      .Time(job.backoff_since)
      .Text(job.failure.failure_class())
      .Text(job.failure.reason());
  if (job.failure.failure_class().empty()) {
    statement.Null();
  } else {
    statement.Blob(job.failure.SerializeAsString());
  }
  statement.Int(job.epoch)
      .Text(job.incarnation)
      .Text(job.worker_name)
      .Int(job.attempt)
      .Int(job.transient_failures)
      .Int(job.resource_failures)
      .Int(job.unproductive_losses)
      .Int(job.steps_at_last_loss)
      .Text(job.fingerprint)
      .Int(job.committed_steps)
      .Int(job.last_event_seq);
  BindOptionalTime(statement, job.start_time);
  BindOptionalTime(statement, job.end_time);
}

}  // namespace

std::string SelectJobs() {
  return absl::StrCat("SELECT ", kColumns, " FROM jobs ");
}

JobRecord JobFrom(const Statement& row) {
  JobRecord job;
  int column = 0;
  job.ordinal = row.ColumnInt(column++);
  job.job_id = row.ColumnText(column++);
  job.display_name = row.ColumnText(column++);
  job.spec.ParseFromString(row.ColumnBlob(column++));
  job.request_id = row.ColumnText(column++);
  job.queue_rank = row.ColumnInt(column++);
  job.state = static_cast<v1::JobState>(row.ColumnInt(column++));
  job.phase = row.ColumnText(column++);
  job.pending_reason = row.ColumnText(column++);
  job.backoff = absl::Microseconds(row.ColumnInt(column++));
  job.backoff_since = row.ColumnTime(column++);
  job.failure.ParseFromString(row.ColumnBlob(column++));
  job.epoch = row.ColumnInt(column++);
  job.incarnation = row.ColumnText(column++);
  job.worker_name = row.ColumnText(column++);
  job.attempt = row.ColumnInt(column++);
  job.transient_failures = row.ColumnInt(column++);
  job.resource_failures = row.ColumnInt(column++);
  job.unproductive_losses = row.ColumnInt(column++);
  job.steps_at_last_loss = row.ColumnInt(column++);
  job.fingerprint = row.ColumnText(column++);
  job.committed_steps = row.ColumnInt(column++);
  job.last_event_seq = row.ColumnInt(column++);
  job.create_time = row.ColumnTime(column++);
  job.start_time = OptionalTime(row, column++);
  job.end_time = OptionalTime(row, column++);
  return job;
}

absl::StatusOr<std::vector<JobRecord>> AllJobs(Statement statement) {
  std::vector<JobRecord> jobs;
  ASSIGN_OR_RETURN(bool more, statement.Step());
  while (more) {
    jobs.push_back(JobFrom(statement));
    ASSIGN_OR_RETURN(more, statement.Step());
  }
  return jobs;
}

absl::StatusOr<JobRecord> LoadJob(Connection& db, absl::string_view job_id) {
  ASSIGN_OR_RETURN(Statement statement,
                   db.Prepare(SelectJobs() + "WHERE job_id = ?"));
  statement.Text(job_id);
  ASSIGN_OR_RETURN(const bool found, statement.Step());
  if (!found) return JobNotFound(job_id);
  return JobFrom(statement);
}

absl::Status InsertJob(Connection& db, JobRecord& job,
                       const std::string& request_digest) {
  // The newest ordinal is the end of the queue.
  ASSIGN_OR_RETURN(const int64_t newest,
                   db.QueryInt("SELECT max(ordinal) FROM jobs"));
  job.ordinal = newest + 1;
  job.queue_rank = job.ordinal;
  ASSIGN_OR_RETURN(
      Statement insert,
      db.Prepare("INSERT INTO jobs (ordinal, job_id, kind, method, model, "
                 "display_name, spec, request_id, request_digest, priority, "
                 "queue_rank, state, created_at, last_event_seq) "
                 "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"));
  insert.Int(job.ordinal)
      .Text(job.job_id)
      .Text(KindOf(job.spec))
      .Text(job.spec.quantize().recipe().method().id())
      .Text(ModelOf(job.spec))
      .Text(job.display_name)
      .Blob(job.spec.SerializeAsString());
  if (job.request_id.empty()) {
    insert.Null();
  } else {
    insert.Text(job.request_id);
  }
  insert.Text(request_digest)
      .Int(job.spec.priority())
      .Int(job.queue_rank)
      .Int(job.state)
      .Time(job.create_time)
      .Int(job.last_event_seq);
  RETURN_IF_ERROR(insert.Run());
  for (const auto& [key, value] : job.spec.labels()) {
    ASSIGN_OR_RETURN(Statement label,
                     db.Prepare("INSERT INTO job_labels VALUES (?, ?, ?)"));
    RETURN_IF_ERROR(label.Text(job.job_id).Text(key).Text(value).Run());
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> UpdateJob(Connection& db, const JobRecord& before,
                               const JobRecord& after) {
  ASSIGN_OR_RETURN(
      Statement update,
      db.Prepare(
          "UPDATE jobs SET queue_rank = ?, state = ?, phase = ?, "
          "pending_reason = ?, backoff_micros = ?, backoff_since = ?, "
          "failure_class = ?, failure_reason = ?, failure = ?, epoch = ?, "
          "incarnation = ?, worker_name = ?, attempt = ?, "
          "transient_failures = ?, resource_failures = ?, "
          "unproductive_losses = ?, steps_at_last_loss = ?, fingerprint = ?, "
          "committed_steps = ?, last_event_seq = ?, started_at = ?, "
          "finalized_at = ? "
          "WHERE job_id = ? AND state = ? AND epoch = ? AND incarnation = ?"));
  BindMutable(update, after);
  update.Text(before.job_id)
      .Int(before.state)
      .Int(before.epoch)
      .Text(before.incarnation);
  RETURN_IF_ERROR(update.Run());
  return db.changes() == 1;
}

absl::Status InsertAttempt(Connection& db, const JobRecord& job,
                           absl::Time now) {
  ASSIGN_OR_RETURN(
      Statement insert,
      db.Prepare("INSERT INTO attempts (job_id, epoch, attempt, worker_name, "
                 "incarnation, started_at) VALUES (?, ?, ?, ?, ?, ?)"));
  return insert.Text(job.job_id)
      .Int(job.epoch)
      .Int(job.attempt)
      .Text(job.worker_name)
      .Text(job.incarnation)
      .Time(now)
      .Run();
}

absl::Status JobNotFound(absl::string_view job_id) {
  return base::MakeError(absl::StatusCode::kNotFound, "JOB_NOT_FOUND",
                         absl::StrCat("there is no job ", job_id),
                         {{"job_id", std::string(job_id)}});
}

std::string KindOf(const v1::JobSpec& spec) {
  return spec.has_evaluate() ? "evaluate" : "quantize";
}

}  // namespace quantd::store
