// SPDX-License-Identifier: Apache-2.0
#include "server/store/sqlite_store.h"

#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "server/store/changes.h"
#include "server/store/queries.h"

namespace quantd::store {
namespace {

// A start is not to wait for a large database to be read through.
constexpr absl::Duration kQuickCheckBudget = absl::Seconds(2);

int InterruptWhenLate(void* deadline) {
  return absl::Now() > *static_cast<absl::Time*>(deadline) ? 1 : 0;
}

absl::Status QuickCheck(Connection& db) {
  absl::Time deadline = absl::Now() + kQuickCheckBudget;
  sqlite3_progress_handler(db.handle(), 100'000, &InterruptWhenLate, &deadline);
  absl::Status status;
  {
    ASSIGN_OR_RETURN(Statement check, db.Prepare("PRAGMA quick_check(1)"));
    const absl::StatusOr<bool> row = check.Step();
    const bool late = sqlite3_errcode(db.handle()) == SQLITE_INTERRUPT;
    if (!row.ok() && !late) status = row.status();
    if (row.ok() && *row && check.ColumnText(0) != "ok") {
      status = SqliteStatus(nullptr, SQLITE_CORRUPT, "quick check");
    }
  }
  sqlite3_progress_handler(db.handle(), 0, nullptr, nullptr);
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SqliteStore>> SqliteStore::Open(
    Options options) {
  if (!options.has_blob) {
    options.has_blob = [](const std::string&) { return true; };
  }
  if (options.migrations == nullptr) options.migrations = &Migrations();
  const std::vector<Migration>& migrations = *options.migrations;
  ASSIGN_OR_RETURN(DataLock lock, DataLock::Acquire(options.data_dir));
  const std::string path = options.data_dir + "/quantd.db";
  RETURN_IF_ERROR(CheckDatabaseFile(path, migrations));
  ASSIGN_OR_RETURN(std::unique_ptr<Connection> db,
                   Connection::Open(path, Connection::Mode::kReadWrite));
  RETURN_IF_ERROR(QuickCheck(*db));
  RETURN_IF_ERROR(Migrate(*db, path, migrations));
  const int num_readers = options.num_readers;
  std::unique_ptr<SqliteStore> store(
      new SqliteStore(std::move(options), std::move(lock)));
  store->path_ = path;
  store->schema_version_ = migrations.back().version;
  ASSIGN_OR_RETURN(store->readers_, Readers::Open(path, num_readers));
  store->writer_ = std::make_unique<Writer>(std::move(db));
  return store;
}

SqliteStore::SqliteStore(Options options, DataLock lock)
    : options_(std::move(options)), lock_(std::move(lock)) {}

template <typename T>
absl::StatusOr<T> SqliteStore::Write(
    std::function<absl::StatusOr<T>(Transaction&)> body) {
  std::optional<T> value;
  RETURN_IF_ERROR(writer_->Run([&](Transaction& tx) -> absl::Status {
    ASSIGN_OR_RETURN(value, body(tx));
    return absl::OkStatus();
  }));
  return *std::move(value);
}

absl::Status SqliteStore::BackUpTo(const std::string& path) {
  // A connection of its own: a copy from inside the writer's transaction would
  // hold every write up.
  ASSIGN_OR_RETURN(const std::unique_ptr<Connection> db,
                   Connection::Open(path_, Connection::Mode::kReadOnly));
  return BackUp(*db, path);
}

void SqliteStore::SetEventSink(EventSink sink) {
  writer_->SetSink(std::move(sink));
}

absl::StatusOr<SubmitResult> SqliteStore::SubmitJob(const NewJob& job) {
  return Write<SubmitResult>(
      [&](Transaction& tx) { return store::SubmitJob(tx, job); });
}

absl::StatusOr<JobRecord> SqliteStore::CancelJob(const std::string& job_id,
                                                 absl::Time now) {
  return Write<JobRecord>(
      [&](Transaction& tx) { return store::CancelJob(tx, job_id, now); });
}

absl::StatusOr<JobRecord> SqliteStore::RetryJob(const std::string& job_id,
                                                absl::Time now) {
  return Write<JobRecord>(
      [&](Transaction& tx) { return store::RetryJob(tx, job_id, now); });
}

absl::StatusOr<JobRecord> SqliteStore::GrantLease(
    const std::string& job_id, const std::string& worker_name,
    const std::string& incarnation, absl::Time now) {
  return Write<JobRecord>([&](Transaction& tx) {
    return store::GrantLease(tx, job_id, worker_name, incarnation, now);
  });
}

absl::StatusOr<JobRecord> SqliteStore::EndLease(const LeaseKey& lease,
                                                const DecideFn& decide,
                                                absl::Time now) {
  return Write<JobRecord>(
      [&](Transaction& tx) { return store::EndLease(tx, lease, decide, now); });
}

absl::StatusOr<JobRecord> SqliteStore::ReleasePending(const std::string& job_id,
                                                      absl::Time now) {
  return Write<JobRecord>(
      [&](Transaction& tx) { return store::ReleasePending(tx, job_id, now); });
}

absl::StatusOr<JobRecord> SqliteStore::FailQueued(const std::string& job_id,
                                                  const v1::Failure& failure,
                                                  absl::Time now) {
  return Write<JobRecord>([&](Transaction& tx) {
    return store::FailQueued(tx, job_id, failure, now);
  });
}

absl::Status SqliteStore::MarkRunning(const LeaseKey& lease, absl::Time now) {
  return writer_->Run(
      [&](Transaction& tx) { return store::MarkRunning(tx, lease, now); });
}

absl::Status SqliteStore::SetPhase(const LeaseKey& lease,
                                   const std::string& phase) {
  return writer_->Run(
      [&](Transaction& tx) { return store::SetPhase(tx, lease, phase); });
}

absl::Status SqliteStore::CommitStep(const LeaseKey& lease,
                                     const v1::Step& step, absl::Time now) {
  return writer_->Run([&](Transaction& tx) {
    return store::CommitStep(tx, lease, step, now, options_.has_blob);
  });
}

absl::StatusOr<v1::JobState> SqliteStore::FinishAttempt(
    const FinishedAttempt& finished, const DecideFn& decide) {
  return Write<v1::JobState>([&](Transaction& tx) {
    return store::FinishAttempt(tx, finished, decide, options_.has_blob);
  });
}

absl::Status SqliteStore::RegisterWorker(const WorkerRecord& worker,
                                         const v1::Catalog& catalog) {
  return writer_->Run([&](Transaction& tx) {
    return store::RegisterWorker(tx, worker, catalog);
  });
}

absl::StatusOr<int64_t> SqliteStore::DropSuperseded(
    const std::string& job_id,
    const std::function<void(const std::string&)>& remove) {
  return Write<int64_t>([&](Transaction& tx) {
    return store::DropSuperseded(tx, job_id, remove);
  });
}

absl::StatusOr<int64_t> SqliteStore::DropOrphans(
    const std::vector<std::string>& blobs,
    const std::function<void(const std::string&)>& remove) {
  return Write<int64_t>(
      [&](Transaction& tx) { return store::DropOrphans(tx, blobs, remove); });
}

absl::StatusOr<JobRecord> SqliteStore::GetJob(const std::string& id_or_prefix) {
  return readers_->Read<JobRecord>(
      [&](Connection& db) { return store::GetJob(db, id_or_prefix); });
}

absl::StatusOr<JobPage> SqliteStore::ListJobs(const JobFilter& filter,
                                              int64_t before,
                                              int32_t page_size) {
  return readers_->Read<JobPage>([&](Connection& db) {
    return store::ListJobs(db, filter, before, page_size);
  });
}

absl::StatusOr<std::vector<JobRecord>> SqliteStore::QueueHead(int32_t limit) {
  return readers_->Read<std::vector<JobRecord>>(
      [&](Connection& db) { return store::QueueHead(db, limit); });
}

absl::StatusOr<int64_t> SqliteStore::JobsAhead(const std::string& job_id) {
  return readers_->Read<int64_t>(
      [&](Connection& db) { return store::JobsAhead(db, job_id); });
}

absl::StatusOr<std::vector<JobRecord>> SqliteStore::LeasedJobs() {
  return readers_->Read<std::vector<JobRecord>>([&](Connection& db) {
    return store::JobsInStates(db, {v1::JOB_STATE_LEASED, v1::JOB_STATE_RUNNING,
                                    v1::JOB_STATE_CANCELLING});
  });
}

absl::StatusOr<std::vector<JobRecord>> SqliteStore::PendingJobs() {
  return readers_->Read<std::vector<JobRecord>>([&](Connection& db) {
    return store::JobsInStates(db, {v1::JOB_STATE_PENDING});
  });
}

absl::StatusOr<std::map<v1::JobState, int64_t>> SqliteStore::CountJobs() {
  return readers_->Read<std::map<v1::JobState, int64_t>>(
      [&](Connection& db) { return store::CountJobs(db); });
}

absl::StatusOr<WaitingJobs> SqliteStore::Waiting() {
  return readers_->Read<WaitingJobs>(
      [&](Connection& db) { return store::Waiting(db); });
}

absl::StatusOr<std::vector<std::string>> SqliteStore::JobsWithPassingBlobs() {
  return readers_->Read<std::vector<std::string>>(
      [&](Connection& db) { return store::JobsWithPassingBlobs(db); });
}

absl::StatusOr<std::vector<v1::Event>> SqliteStore::ReadEvents(
    const std::string& job_id, int64_t from_seq, int32_t limit) {
  return readers_->Read<std::vector<v1::Event>>([&](Connection& db) {
    return store::ReadEvents(db, job_id, from_seq, limit);
  });
}

absl::StatusOr<std::vector<v1::Step>> SqliteStore::CommittedSteps(
    const std::string& job_id) {
  return readers_->Read<std::vector<v1::Step>>(
      [&](Connection& db) { return store::CommittedSteps(db, job_id); });
}

absl::StatusOr<std::vector<AttemptRecord>> SqliteStore::Attempts(
    const std::string& job_id) {
  return readers_->Read<std::vector<AttemptRecord>>(
      [&](Connection& db) { return store::Attempts(db, job_id); });
}

absl::StatusOr<v1::Artifact> SqliteStore::GetArtifact(const std::string& name) {
  return readers_->Read<v1::Artifact>(
      [&](Connection& db) { return store::GetArtifact(db, name); });
}

absl::StatusOr<ArtifactPage> SqliteStore::ListArtifacts(
    const std::string& job_id, int64_t before, int32_t page_size) {
  return readers_->Read<ArtifactPage>([&](Connection& db) {
    return store::ListArtifacts(db, job_id, before, page_size);
  });
}

absl::StatusOr<v1::Catalog> SqliteStore::GetCatalog() {
  return readers_->Read<v1::Catalog>(
      [&](Connection& db) { return store::GetCatalog(db); });
}

absl::StatusOr<std::vector<WorkerRecord>> SqliteStore::ListWorkers() {
  return readers_->Read<std::vector<WorkerRecord>>(
      [&](Connection& db) { return store::ListWorkers(db); });
}

StoreStats SqliteStore::Stats() {
  StoreStats stats = writer_->Stats();
  std::error_code absent;
  const auto wal_bytes = std::filesystem::file_size(path_ + "-wal", absent);
  if (!absent) stats.wal_bytes = static_cast<int64_t>(wal_bytes);
  stats.schema_version = schema_version_;
  return stats;
}

}  // namespace quantd::store
