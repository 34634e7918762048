// SPDX-License-Identifier: Apache-2.0
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "server/store/queries.h"
#include "server/store/rows.h"

namespace quantd::store {
namespace {

constexpr size_t kMinPrefix = 4;

absl::Status ArtifactNotFound(const std::string& name) {
  return base::MakeError(absl::StatusCode::kNotFound, "ARTIFACT_NOT_FOUND",
                         absl::StrCat("there is no artifact ", name),
                         {{"artifact", name}});
}

AttemptRecord AttemptFrom(const Statement& row) {
  AttemptRecord attempt;
  attempt.job_id = row.ColumnText(0);
  attempt.epoch = row.ColumnInt(1);
  attempt.attempt = row.ColumnInt(2);
  attempt.worker_name = row.ColumnText(3);
  attempt.incarnation = row.ColumnText(4);
  attempt.start_time = row.ColumnTime(5);
  if (!row.IsNull(6)) attempt.end_time = row.ColumnTime(6);
  attempt.failure.ParseFromString(row.ColumnBlob(7));
  attempt.log_tail = row.ColumnText(8);
  return attempt;
}

v1::Artifact ArtifactFrom(const Statement& row, int column) {
  v1::Artifact artifact;
  artifact.ParseFromString(row.ColumnBlob(column));
  return artifact;
}

absl::StatusOr<v1::Artifact> ArtifactOfJob(Connection& db,
                                           const std::string& job_id) {
  ASSIGN_OR_RETURN(const JobRecord job, GetJob(db, job_id));
  ASSIGN_OR_RETURN(Statement select,
                   db.Prepare("SELECT body FROM artifacts WHERE job_id = ? "
                              "ORDER BY ordinal LIMIT 1"));
  select.Text(job.job_id);
  ASSIGN_OR_RETURN(const bool found, select.Step());
  if (!found) return ArtifactNotFound(absl::StrCat("of job ", job.job_id));
  return ArtifactFrom(select, 0);
}

}  // namespace

absl::StatusOr<std::vector<v1::Event>> ReadEvents(Connection& db,
                                                  const std::string& job_id,
                                                  int64_t from_seq,
                                                  int32_t limit) {
  ASSIGN_OR_RETURN(Statement select,
                   db.Prepare("SELECT body FROM events WHERE job_id = ? AND "
                              "seq >= ? ORDER BY seq LIMIT ?"));
  select.Text(job_id).Int(from_seq).Int(limit);
  std::vector<v1::Event> events;
  ASSIGN_OR_RETURN(bool more, select.Step());
  while (more) {
    events.emplace_back().ParseFromString(select.ColumnBlob(0));
    ASSIGN_OR_RETURN(more, select.Step());
  }
  return events;
}

absl::StatusOr<std::vector<v1::Step>> CommittedSteps(
    Connection& db, const std::string& job_id) {
  ASSIGN_OR_RETURN(
      Statement select,
      db.Prepare("SELECT steps.body FROM steps JOIN jobs USING (job_id, "
                 "fingerprint) WHERE job_id = ? AND step < committed_steps "
                 "ORDER BY step"));
  select.Text(job_id);
  std::vector<v1::Step> steps;
  ASSIGN_OR_RETURN(bool more, select.Step());
  while (more) {
    steps.emplace_back().ParseFromString(select.ColumnBlob(0));
    ASSIGN_OR_RETURN(more, select.Step());
  }
  return steps;
}

absl::StatusOr<std::vector<std::string>> JobsWithPassingBlobs(Connection& db) {
  ASSIGN_OR_RETURN(Statement select,
                   db.Prepare("SELECT DISTINCT job_id FROM step_blobs "
                              "WHERE role IN ('activations', "
                              "'output_weights')"));
  std::vector<std::string> jobs;
  ASSIGN_OR_RETURN(bool more, select.Step());
  while (more) {
    jobs.push_back(select.ColumnText(0));
    ASSIGN_OR_RETURN(more, select.Step());
  }
  return jobs;
}

absl::StatusOr<std::vector<AttemptRecord>> Attempts(Connection& db,
                                                    const std::string& job_id) {
  ASSIGN_OR_RETURN(
      Statement select,
      db.Prepare("SELECT job_id, epoch, attempt, worker_name, incarnation, "
                 "started_at, ended_at, failure, log_tail FROM attempts "
                 "WHERE job_id = ? ORDER BY epoch"));
  select.Text(job_id);
  std::vector<AttemptRecord> attempts;
  ASSIGN_OR_RETURN(bool more, select.Step());
  while (more) {
    attempts.push_back(AttemptFrom(select));
    ASSIGN_OR_RETURN(more, select.Step());
  }
  return attempts;
}

absl::StatusOr<v1::Artifact> GetArtifact(Connection& db,
                                         const std::string& name) {
  if (absl::StartsWith(name, "jobs/")) {
    return ArtifactOfJob(db, name.substr(5));
  }
  const std::string id(absl::StripPrefix(name, "artifacts/"));
  if (id.size() < kMinPrefix) return ArtifactNotFound(name);
  ASSIGN_OR_RETURN(Statement select,
                   db.Prepare("SELECT body FROM artifacts WHERE artifact_id "
                              ">= ? AND artifact_id < ? "
                              "ORDER BY artifact_id LIMIT 2"));
  select.Text(id).Text(PrefixEnd(id));
  ASSIGN_OR_RETURN(const bool found, select.Step());
  if (!found) return ArtifactNotFound(name);
  v1::Artifact artifact = ArtifactFrom(select, 0);
  ASSIGN_OR_RETURN(const bool another, select.Step());
  if (another && artifact.artifact_id() != id) return ArtifactNotFound(name);
  return artifact;
}

absl::StatusOr<ArtifactPage> ListArtifacts(Connection& db,
                                           const std::string& job_id,
                                           int64_t before, int32_t page_size) {
  ASSIGN_OR_RETURN(
      Statement select,
      db.Prepare("SELECT ordinal, body FROM artifacts WHERE (?1 = '' OR "
                 "job_id = ?1) AND (?2 = 0 OR ordinal < ?2) "
                 "ORDER BY ordinal DESC LIMIT ?3"));
  select.Text(job_id).Int(before).Int(int64_t{page_size} + 1);
  ArtifactPage page;
  int64_t oldest = 0;
  ASSIGN_OR_RETURN(bool more, select.Step());
  while (more) {
    if (static_cast<int64_t>(page.artifacts.size()) == page_size) {
      page.next_before = oldest;
      break;
    }
    oldest = select.ColumnInt(0);
    page.artifacts.push_back(ArtifactFrom(select, 1));
    ASSIGN_OR_RETURN(more, select.Step());
  }
  return page;
}

absl::StatusOr<v1::Catalog> GetCatalog(Connection& db) {
  ASSIGN_OR_RETURN(Statement select, db.Prepare("SELECT body FROM catalog"));
  ASSIGN_OR_RETURN(const bool found, select.Step());
  if (!found) {
    return base::MakeError(absl::StatusCode::kNotFound, "NO_CATALOG",
                           "no worker has registered yet, so it is not known "
                           "what can be done; start a worker");
  }
  v1::Catalog catalog;
  catalog.ParseFromString(select.ColumnBlob(0));
  return catalog;
}

absl::StatusOr<std::vector<WorkerRecord>> ListWorkers(Connection& db) {
  ASSIGN_OR_RETURN(Statement select,
                   db.Prepare("SELECT * FROM workers ORDER BY worker_name"));
  std::vector<WorkerRecord> workers;
  ASSIGN_OR_RETURN(bool more, select.Step());
  while (more) {
    WorkerRecord worker;
    worker.worker_name = select.ColumnText(0);
    worker.incarnation = select.ColumnText(1);
    worker.device.ParseFromString(select.ColumnBlob(2));
    worker.code_version = select.ColumnText(3);
    worker.registered_time = select.ColumnTime(4);
    workers.push_back(std::move(worker));
    ASSIGN_OR_RETURN(more, select.Step());
  }
  return workers;
}

}  // namespace quantd::store
