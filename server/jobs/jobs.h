// SPDX-License-Identifier: Apache-2.0
// Jobs as clients and workers know them: every change of a job goes through
// here to the store. Thread-safe; writes block until they are durable.
// It knows no clock of its own, no worker list and no retry rule: those are
// given by the scheduler.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/base/blob_directory.h"
#include "proto/base/clock.h"
#include "proto/base/ids.h"
#include "quantd/v1/services.pb.h"
#include "server/events/hub.h"
#include "server/events/watch.h"
#include "server/jobs/log_files.h"
#include "server/store/store.h"

namespace quantd::jobs {

// From the record and how the attempt ended (empty class: it succeeded) to
// what follows; see scheduler/retry_policy.
using RetryRule =
    std::function<store::Outcome(const store::JobRecord&, const v1::Failure&)>;

struct JobList {
  std::vector<v1::Job> jobs;
  // Pass as `before` for the next page; 0 on the last one.
  int64_t next_before = 0;
};

class Jobs {
 public:
  struct Options {
    store::Store* store = nullptr;
    events::Hub* hub = nullptr;
    LogFiles* logs = nullptr;
    base::BlobDirectory* blobs = nullptr;
    base::Clock* clock = nullptr;
    base::IdGenerator* ids = nullptr;
    RetryRule retry_rule;
    // How long a blob that no row names, or a temporary file, is left alone: a
    // worker may be about to name it.
    absl::Duration blob_grace = absl::Hours(24);
  };
  // Everything in `options` outlives the object.
  explicit Jobs(Options options);

  // --- Clients -------------------------------------------------------------
  // The recipe was checked by the caller. `display_name` is the generated tag.
  // ALREADY_EXISTS (REQUEST_ID_REUSED); FAILED_PRECONDITION
  // (SOURCE_NOT_READY) where an evaluate job names an unfinished job.
  absl::StatusOr<v1::SubmitJobResponse> Submit(
      const v1::SubmitJobRequest& request, const std::string& display_name);
  // Full id or unique prefix, as everywhere below.
  absl::StatusOr<v1::Job> Get(const std::string& id);
  absl::StatusOr<JobList> List(const store::JobFilter& filter, int64_t before,
                               int32_t page_size);
  absl::StatusOr<v1::Job> Cancel(const std::string& id);
  absl::StatusOr<v1::Job> Retry(const std::string& id);
  absl::StatusOr<v1::ReadJobLogResponse> ReadLog(
      const v1::ReadJobLogRequest& request);
  // `id` is a full id.
  std::unique_ptr<events::Watch> Watch(
      const std::string& id, int64_t from_seq,
      std::function<void()> on_ready = nullptr);

  // --- Workers: FAILED_PRECONDITION, LEASE_LOST for a stale lease ----------
  absl::Status MarkRunning(const v1::Lease& lease);
  // Kept in memory and sent to watchers; only a new phase is stored.
  absl::Status ReportProgress(const v1::Lease& lease,
                              const v1::Progress& progress);
  absl::Status CommitStep(const v1::CommitStepRequest& request);
  absl::StatusOr<v1::FinishResponse> Finish(const v1::FinishRequest& request);
  // The runner of a cancelled (or drained) job was reaped.
  absl::StatusOr<v1::JobState> ConfirmStopped(const v1::Lease& lease);
  absl::StatusOr<v1::AppendLogResponse> AppendLog(
      const v1::AppendLogRequest& request);

  // --- Scheduler -----------------------------------------------------------
  // Leases a QUEUED job and gathers what the worker needs.
  absl::StatusOr<v1::Assignment> Grant(const store::JobRecord& job,
                                       const std::string& worker_name,
                                       const std::string& incarnation);
  // The assignment of a lease that is held already.
  absl::StatusOr<v1::Assignment> AssignmentOf(const store::JobRecord& job);
  // The worker is gone: `reason` is LEASE_EXPIRED or WORKER_RESTARTED.
  absl::StatusOr<v1::JobState> Lose(const v1::Lease& lease,
                                    const std::string& reason);
  // The wait of a PENDING job is over.
  absl::Status Release(const std::string& job_id);
  // Removes blobs that only superseded steps needed; called now and then.
  void RemoveSupersededBlobs();
  // Removes old temporary files and old blobs that no row names, the latter
  // in a sixteenth of the blob store at each call. From one thread at a time.
  void CollectOrphans();

  // Of a record: what Get returns, live progress included.
  v1::Job ToMessage(const store::JobRecord& record);

 private:
  absl::StatusOr<events::History> ReadHistory(const std::string& job_id,
                                              int64_t from_seq);
  absl::Status CheckSource(const v1::JobSpec& spec);
  void Forget(const std::string& job_id);

  // Constant after construction.
  const Options options_;
  // Guarded by mu_, which is never held across a call to the store.
  absl::Mutex mu_;
  std::map<std::string, v1::Progress> progress_ ABSL_GUARDED_BY(mu_);
  // Jobs with a step committed since blobs were last removed.
  std::set<std::string> grown_ ABSL_GUARDED_BY(mu_);
  // Touched by CollectOrphans only.
  int next_shard_ = 0;
  bool collected_before_ = false;
};

}  // namespace quantd::jobs
