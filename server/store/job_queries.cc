// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "server/store/filter_sql.h"
#include "server/store/queries.h"
#include "server/store/rows.h"

namespace quantd::store {
namespace {

constexpr size_t kMinPrefix = 4;

absl::StatusOr<JobRecord> FindByPrefix(Connection& db, const std::string& id) {
  if (id.size() < kMinPrefix) {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "JOB_ID_TOO_SHORT",
        "a job id needs at least its first 4 characters", {{"job_id", id}});
  }
  ASSIGN_OR_RETURN(
      Statement find,
      db.Prepare(SelectJobs() +
                 "WHERE job_id >= ? AND job_id < ? ORDER BY job_id LIMIT 2"));
  find.Text(id).Text(PrefixEnd(id));
  ASSIGN_OR_RETURN(const bool found, find.Step());
  if (!found) return JobNotFound(id);
  JobRecord job = JobFrom(find);
  ASSIGN_OR_RETURN(const bool another, find.Step());
  if (another && job.job_id != id) {
    return base::MakeError(absl::StatusCode::kInvalidArgument,
                           "JOB_ID_AMBIGUOUS",
                           absl::StrCat("more than one job id begins with ", id,
                                        "; give more characters"),
                           {{"job_id", id}});
  }
  return job;
}

absl::Status AddDetails(Connection& db, JobRecord& job) {
  ASSIGN_OR_RETURN(Statement report,
                   db.Prepare("SELECT report FROM jobs WHERE job_id = ?"));
  report.Text(job.job_id);
  ASSIGN_OR_RETURN(const bool found, report.Step());
  if (found) job.report.ParseFromString(report.ColumnBlob(0));
  ASSIGN_OR_RETURN(Statement artifacts,
                   db.Prepare("SELECT artifact_id FROM artifacts "
                              "WHERE job_id = ? ORDER BY ordinal"));
  artifacts.Text(job.job_id);
  ASSIGN_OR_RETURN(bool more, artifacts.Step());
  while (more) {
    job.artifact_ids.push_back(artifacts.ColumnText(0));
    ASSIGN_OR_RETURN(more, artifacts.Step());
  }
  return absl::OkStatus();
}

}  // namespace

std::string PrefixEnd(std::string prefix) {
  while (!prefix.empty()) {
    const auto last = static_cast<unsigned char>(prefix.back());
    if (last < 0xff) {
      prefix.back() = static_cast<char>(last + 1);
      return prefix;
    }
    prefix.pop_back();
  }
  // Nothing is greater: text that no id can have.
  return std::string(32, '\xff');
}

absl::StatusOr<JobRecord> GetJob(Connection& db, const std::string& id) {
  ASSIGN_OR_RETURN(JobRecord job, FindByPrefix(db, id));
  RETURN_IF_ERROR(AddDetails(db, job));
  return job;
}

absl::StatusOr<JobPage> ListJobs(Connection& db, const JobFilter& filter,
                                 int64_t before, int32_t page_size) {
  ASSIGN_OR_RETURN(const FilterSql sql, ToSql(filter));
  ASSIGN_OR_RETURN(
      Statement select,
      db.Prepare(absl::StrCat(SelectJobs(), "WHERE (?1 = 0 OR ordinal < ?1) ",
                              "AND ?2 > 0 AND ", sql.condition,
                              " ORDER BY ordinal DESC LIMIT ?2")));
  // One more than the page tells whether there is another.
  select.Int(before).Int(int64_t{page_size} + 1);
  for (const std::string& parameter : sql.parameters) select.Text(parameter);
  JobPage page;
  ASSIGN_OR_RETURN(page.jobs, AllJobs(std::move(select)));
  if (static_cast<int64_t>(page.jobs.size()) > page_size) {
    page.jobs.pop_back();
    page.next_before = page.jobs.back().ordinal;
  }
  return page;
}

absl::StatusOr<std::vector<JobRecord>> QueueHead(Connection& db,
                                                 int32_t limit) {
  ASSIGN_OR_RETURN(
      Statement select,
      db.Prepare(SelectJobs() +
                 "WHERE state = 2 "
                 "ORDER BY priority DESC, queue_rank, ordinal LIMIT ?"));
  select.Int(limit);
  return AllJobs(std::move(select));
}

absl::StatusOr<int64_t> JobsAhead(Connection& db, const std::string& job_id) {
  ASSIGN_OR_RETURN(
      Statement count,
      db.Prepare("SELECT count(*) FROM jobs AS other, jobs AS this "
                 "WHERE this.job_id = ? AND this.state = 2 AND "
                 "other.state = 2 AND (-other.priority, other.queue_rank, "
                 "other.ordinal) < (-this.priority, this.queue_rank, "
                 "this.ordinal)"));
  count.Text(job_id);
  RETURN_IF_ERROR(count.Step().status());
  return count.ColumnInt(0);
}

absl::StatusOr<std::vector<JobRecord>> JobsInStates(
    Connection& db, const std::vector<v1::JobState>& states) {
  // Numbers of an enum, so that the partial index is used.
  const std::string list =
      absl::StrJoin(states, ", ", [](std::string* out, v1::JobState state) {
        absl::StrAppend(out, static_cast<int>(state));
      });
  ASSIGN_OR_RETURN(Statement select,
                   db.Prepare(absl::StrCat(SelectJobs(), "WHERE state IN (",
                                           list, ") ORDER BY ordinal")));
  return AllJobs(std::move(select));
}

absl::StatusOr<std::map<v1::JobState, int64_t>> CountJobs(Connection& db) {
  ASSIGN_OR_RETURN(
      Statement select,
      db.Prepare("SELECT state, count(*) FROM jobs GROUP BY state"));
  std::map<v1::JobState, int64_t> counts;
  ASSIGN_OR_RETURN(bool more, select.Step());
  while (more) {
    counts[static_cast<v1::JobState>(select.ColumnInt(0))] =
        select.ColumnInt(1);
    ASSIGN_OR_RETURN(more, select.Step());
  }
  return counts;
}

absl::StatusOr<WaitingJobs> Waiting(Connection& db) {
  WaitingJobs waiting;
  ASSIGN_OR_RETURN(Statement pending,
                   db.Prepare("SELECT pending_reason, count(*) FROM jobs "
                              "WHERE state = 1 GROUP BY pending_reason"));
  ASSIGN_OR_RETURN(bool more, pending.Step());
  while (more) {
    waiting.pending[pending.ColumnText(0)] = pending.ColumnInt(1);
    ASSIGN_OR_RETURN(more, pending.Step());
  }
  // The index on state has the ordinal within, so that this looks at one row.
  ASSIGN_OR_RETURN(
      Statement oldest,
      db.Prepare("SELECT created_at FROM jobs INDEXED BY jobs_by_state "
                 "WHERE state = 2 ORDER BY ordinal LIMIT 1"));
  ASSIGN_OR_RETURN(const bool found, oldest.Step());
  if (found) waiting.oldest_queued = oldest.ColumnTime(0);
  return waiting;
}

}  // namespace quantd::store
