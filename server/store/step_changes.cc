// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "server/store/changes.h"
#include "server/store/rows.h"

namespace quantd::store {
namespace {

// What the next step needs; once that is committed nobody reads it again.
constexpr char kActivationsRole[] = "activations";
// What some later step of the job needs.
constexpr char kOutputWeightsRole[] = "output_weights";

// True where the same step was committed before; STEP_CONFLICT where it then
// had other blobs.
absl::StatusOr<bool> AlreadyCommitted(Connection& db, const std::string& job_id,
                                      const v1::Step& step) {
  ASSIGN_OR_RETURN(Statement find,
                   db.Prepare("SELECT body FROM steps WHERE job_id = ? AND "
                              "fingerprint = ? AND step = ?"));
  find.Text(job_id).Text(step.fingerprint()).Int(step.step());
  ASSIGN_OR_RETURN(const bool found, find.Step());
  if (!found) return false;
  v1::Step stored;
  stored.ParseFromString(find.ColumnBlob(0));
  bool same = stored.blobs_size() == step.blobs_size();
  for (const auto& [role, blob] : step.blobs()) {
    const auto known = stored.blobs().find(role);
    same = same && known != stored.blobs().end() &&
           known->second.sha256() == blob.sha256();
  }
  if (same) return true;
  return base::MakeError(
      absl::StatusCode::kFailedPrecondition, "STEP_CONFLICT",
      absl::StrCat("step ", step.step(),
                   " was committed before with other bytes; the work is not "
                   "deterministic"),
      {{"job_id", job_id}, {"step", absl::StrCat(step.step())}});
}

absl::Status InsertStep(Connection& db, const std::string& job_id,
                        const v1::Step& step, absl::Time now,
                        const HasBlobFn& has_blob) {
  ASSIGN_OR_RETURN(Statement insert,
                   db.Prepare("INSERT INTO steps VALUES (?, ?, ?, ?, ?)"));
  RETURN_IF_ERROR(insert.Text(job_id)
                      .Text(step.fingerprint())
                      .Int(step.step())
                      .Blob(step.SerializeAsString())
                      .Time(now)
                      .Run());
  for (const auto& [role, blob] : step.blobs()) {
    if (!has_blob(blob.sha256())) return BlobMissing(blob.sha256());
    ASSIGN_OR_RETURN(
        Statement row,
        db.Prepare("INSERT INTO step_blobs VALUES (?, ?, ?, ?, ?, ?)"));
    RETURN_IF_ERROR(row.Text(job_id)
                        .Text(step.fingerprint())
                        .Int(step.step())
                        .Text(role)
                        .Text(blob.sha256())
                        .Int(blob.size_bytes())
                        .Run());
  }
  return absl::OkStatus();
}

// How many steps 0, 1, 2 ... are there without a hole, counting on from `from`.
absl::StatusOr<int64_t> ContiguousSteps(Connection& db, const JobRecord& job,
                                        int64_t from) {
  for (int64_t step = from;; ++step) {
    ASSIGN_OR_RETURN(Statement find,
                     db.Prepare("SELECT 1 FROM steps WHERE job_id = ? AND "
                                "fingerprint = ? AND step = ?"));
    find.Text(job.job_id).Text(job.fingerprint).Int(step);
    ASSIGN_OR_RETURN(const bool found, find.Step());
    if (!found) return step;
  }
}

v1::Event StepEvent(const v1::Step& step) {
  v1::Event event;
  v1::StepCommitted& committed = *event.mutable_step_committed();
  committed.set_step(step.step());
  committed.set_num_steps(step.num_steps());
  committed.set_kind(step.kind());
  committed.set_name(step.name());
  *committed.mutable_layers() = step.layers();
  *committed.mutable_evals() = step.evals();
  committed.set_seconds(step.seconds());
  return event;
}

absl::StatusOr<bool> IsReferenced(Connection& db, const std::string& sha256) {
  ASSIGN_OR_RETURN(
      Statement find,
      db.Prepare("SELECT EXISTS (SELECT 1 FROM step_blobs WHERE sha256 = ?1) "
                 "OR EXISTS (SELECT 1 FROM artifact_blobs WHERE sha256 = ?1)"));
  find.Text(sha256);
  RETURN_IF_ERROR(find.Step().status());
  return find.ColumnInt(0) != 0;
}

// Blobs of a role in steps below a number of the current fingerprint.
struct Superseded {
  const char* role;
  int64_t below;
};

std::vector<Superseded> SupersededIn(const JobRecord& job) {
  const int64_t steps = job.committed_steps;
  const bool done = job.state == v1::JOB_STATE_SUCCEEDED;
  return {{kActivationsRole, done ? steps : steps - 1},
          {kOutputWeightsRole, done ? steps : 0}};
}

// Forgets them, and appends what they were to `blobs`.
absl::Status Forget(Connection& db, const JobRecord& job,
                    const Superseded& superseded,
                    std::vector<std::string>* blobs) {
  const std::string rows =
      " FROM step_blobs WHERE job_id = ? AND fingerprint = ? AND step < ? AND "
      "role = ?";
  ASSIGN_OR_RETURN(Statement select, db.Prepare("SELECT sha256" + rows));
  ASSIGN_OR_RETURN(Statement erase, db.Prepare("DELETE" + rows));
  for (Statement* statement : {&select, &erase}) {
    statement->Text(job.job_id)
        .Text(job.fingerprint)
        .Int(superseded.below)
        .Text(superseded.role);
  }
  ASSIGN_OR_RETURN(bool more, select.Step());
  while (more) {
    blobs->push_back(select.ColumnText(0));
    ASSIGN_OR_RETURN(more, select.Step());
  }
  return erase.Run();
}

}  // namespace

absl::Status CommitStep(Transaction& tx, const LeaseKey& lease,
                        const v1::Step& step, absl::Time now,
                        const HasBlobFn& has_blob) {
  ASSIGN_OR_RETURN(const JobRecord before, LoadLeased(tx.db(), lease));
  if (step.fingerprint().empty() || step.step() < 0) {
    return base::MakeError(absl::StatusCode::kInvalidArgument, "STEP_INVALID",
                           "a step needs a fingerprint and a number from 0");
  }
  ASSIGN_OR_RETURN(const bool known,
                   AlreadyCommitted(tx.db(), lease.job_id, step));
  if (known && before.fingerprint == step.fingerprint()) {
    return absl::OkStatus();
  }
  JobRecord after = before;
  if (!known) {
    RETURN_IF_ERROR(InsertStep(tx.db(), lease.job_id, step, now, has_blob));
    RETURN_IF_ERROR(AppendEvent(tx, after, StepEvent(step), now));
  }
  if (before.fingerprint != step.fingerprint()) {
    after.fingerprint = step.fingerprint();
    after.committed_steps = 0;
    after.steps_at_last_loss = 0;
  }
  ASSIGN_OR_RETURN(after.committed_steps,
                   ContiguousSteps(tx.db(), after, after.committed_steps));
  ASSIGN_OR_RETURN(const bool updated, UpdateJob(tx.db(), before, after));
  return updated ? absl::OkStatus() : LeaseLost(lease);
}

absl::StatusOr<int64_t> DropSuperseded(
    Transaction& tx, const std::string& job_id,
    const std::function<void(const std::string&)>& remove) {
  ASSIGN_OR_RETURN(const JobRecord job, LoadJob(tx.db(), job_id));
  std::vector<std::string> blobs;
  for (const Superseded& superseded : SupersededIn(job)) {
    RETURN_IF_ERROR(Forget(tx.db(), job, superseded, &blobs));
  }
  // Before the commit: should that fail, only rows that nobody reads again
  // name the blobs, and a new step that names one is refused.
  return DropOrphans(tx, blobs, remove);
}

absl::StatusOr<int64_t> DropOrphans(
    Transaction& tx, const std::vector<std::string>& blobs,
    const std::function<void(const std::string&)>& remove) {
  int64_t removed = 0;
  for (const std::string& sha256 : blobs) {
    ASSIGN_OR_RETURN(const bool referenced, IsReferenced(tx.db(), sha256));
    if (referenced) continue;
    remove(sha256);
    ++removed;
  }
  return removed;
}

absl::Status BlobMissing(const std::string& sha256) {
  return base::MakeError(
      absl::StatusCode::kFailedPrecondition, "BLOB_MISSING",
      absl::StrCat("blob ", sha256, " is not in the store; write it first"),
      {{"sha256", sha256}});
}

}  // namespace quantd::store
