// SPDX-License-Identifier: Apache-2.0
// The Store over one SQLite file (WAL, synchronous=FULL). Owns the data
// directory's lock, the writer thread and the readers. Thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/store/data_lock.h"
#include "server/store/migrator.h"
#include "server/store/readers.h"
#include "server/store/store.h"
#include "server/store/writer.h"

namespace quantd::store {

class SqliteStore : public Store {
 public:
  struct Options {
    // Created where it is missing; the database is <data_dir>/quantd.db.
    std::string data_dir;
    // Asked inside the transaction that would refer to a blob. Empty: every
    // blob is taken to be there.
    std::function<bool(const std::string& sha256)> has_blob;
    int num_readers = 4;
    // Other than the compiled-in schema only in tests of upgrades.
    const std::vector<Migration>* migrations = nullptr;
  };
  // FAILED_PRECONDITION: DATA_DIR_LOCKED, DATA_DIR_NETWORK, DATABASE_NEWER,
  // DATABASE_FOREIGN. DATA_LOSS: STORE_CORRUPT.
  static absl::StatusOr<std::unique_ptr<SqliteStore>> Open(Options options);

  // A checked copy of the database at `path`, taken between two batches.
  absl::Status BackUpTo(const std::string& path);

  void SetEventSink(EventSink sink) override;
  absl::StatusOr<SubmitResult> SubmitJob(const NewJob& job) override;
  absl::StatusOr<JobRecord> CancelJob(const std::string& job_id,
                                      absl::Time now) override;
  absl::StatusOr<JobRecord> RetryJob(const std::string& job_id,
                                     absl::Time now) override;
  absl::StatusOr<JobRecord> GrantLease(const std::string& job_id,
                                       const std::string& worker_name,
                                       const std::string& incarnation,
                                       absl::Time now) override;
  absl::StatusOr<JobRecord> EndLease(const LeaseKey& lease,
                                     const DecideFn& decide,
                                     absl::Time now) override;
  absl::StatusOr<JobRecord> ReleasePending(const std::string& job_id,
                                           absl::Time now) override;
  absl::StatusOr<JobRecord> FailQueued(const std::string& job_id,
                                       const v1::Failure& failure,
                                       absl::Time now) override;
  absl::Status MarkRunning(const LeaseKey& lease, absl::Time now) override;
  absl::Status SetPhase(const LeaseKey& lease,
                        const std::string& phase) override;
  absl::Status CommitStep(const LeaseKey& lease, const v1::Step& step,
                          absl::Time now) override;
  absl::StatusOr<v1::JobState> FinishAttempt(const FinishedAttempt& finished,
                                             const DecideFn& decide) override;
  absl::Status RegisterWorker(const WorkerRecord& worker,
                              const v1::Catalog& catalog) override;
  absl::StatusOr<int64_t> DropSuperseded(
      const std::string& job_id,
      const std::function<void(const std::string&)>& remove) override;
  absl::StatusOr<int64_t> DropOrphans(
      const std::vector<std::string>& blobs,
      const std::function<void(const std::string&)>& remove) override;

  absl::StatusOr<JobRecord> GetJob(const std::string& id_or_prefix) override;
  absl::StatusOr<JobPage> ListJobs(const JobFilter& filter, int64_t before,
                                   int32_t page_size) override;
  absl::StatusOr<std::vector<JobRecord>> QueueHead(int32_t limit) override;
  absl::StatusOr<int64_t> JobsAhead(const std::string& job_id) override;
  absl::StatusOr<std::vector<JobRecord>> LeasedJobs() override;
  absl::StatusOr<std::vector<JobRecord>> PendingJobs() override;
  absl::StatusOr<std::map<v1::JobState, int64_t>> CountJobs() override;
  absl::StatusOr<WaitingJobs> Waiting() override;
  absl::StatusOr<std::vector<std::string>> JobsWithPassingBlobs() override;
  absl::StatusOr<std::vector<v1::Event>> ReadEvents(const std::string& job_id,
                                                    int64_t from_seq,
                                                    int32_t limit) override;
  absl::StatusOr<std::vector<v1::Step>> CommittedSteps(
      const std::string& job_id) override;
  absl::StatusOr<std::vector<AttemptRecord>> Attempts(
      const std::string& job_id) override;
  absl::StatusOr<v1::Artifact> GetArtifact(const std::string& name) override;
  absl::StatusOr<ArtifactPage> ListArtifacts(const std::string& job_id,
                                             int64_t before,
                                             int32_t page_size) override;
  absl::StatusOr<v1::Catalog> GetCatalog() override;
  absl::StatusOr<std::vector<WorkerRecord>> ListWorkers() override;
  StoreStats Stats() override;

 private:
  SqliteStore(Options options, DataLock lock);
  template <typename T>
  absl::StatusOr<T> Write(std::function<absl::StatusOr<T>(Transaction&)> body);

  // Constant after Open. The lock goes last, after the writer has stopped.
  const Options options_;
  const DataLock lock_;
  std::string path_;
  int32_t schema_version_ = 0;
  // Self-synchronized.
  std::unique_ptr<Readers> readers_;
  std::unique_ptr<Writer> writer_;
};

}  // namespace quantd::store
