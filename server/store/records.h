// SPDX-License-Identifier: Apache-2.0
// What the store hands out and takes: plain structs, no SQL, no behaviour.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "quantd/v1/artifact.pb.h"
#include "quantd/v1/catalog.pb.h"
#include "quantd/v1/event.pb.h"
#include "quantd/v1/job.pb.h"
#include "quantd/v1/report.pb.h"
#include "quantd/v1/worker.pb.h"

namespace quantd::store {

// One row of `jobs`.
struct JobRecord {
  std::string job_id;
  // Grows with every submit: the order of lists and the key of a page.
  int64_t ordinal = 0;
  v1::JobSpec spec;
  std::string display_name;
  std::string request_id;
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  std::string phase;
  std::string pending_reason;
  // While PENDING for BACKOFF: how long the wait is from its beginning.
  absl::Duration backoff;
  absl::Time backoff_since;
  // Empty class unless FAILED.
  v1::Failure failure;
  int32_t attempt = 0;
  int64_t epoch = 0;
  // The newest holder; stays when the lease ends.
  std::string worker_name;
  // Of the lease's holder; empty where no lease is held.
  std::string incarnation;
  // Of the newest committed step; empty before the first one.
  std::string fingerprint;
  int64_t committed_steps = 0;
  // Failures that count against the retry limit, by class.
  int32_t transient_failures = 0;
  int32_t resource_failures = 0;
  // Losses in a row without a new step in between.
  int32_t unproductive_losses = 0;
  // committed_steps when the lease was last lost; 0 before any loss.
  int64_t steps_at_last_loss = 0;
  // Among QUEUED jobs of one priority: smaller is granted first.
  int64_t queue_rank = 0;
  // Filled by GetJob only; lists leave it empty.
  v1::JobReport report;
  std::vector<std::string> artifact_ids;
  absl::Time create_time;
  std::optional<absl::Time> start_time;
  std::optional<absl::Time> end_time;
  int64_t last_event_seq = 0;
};

// The guard of every write that a worker causes.
struct LeaseKey {
  std::string job_id;
  int64_t epoch = 0;
  std::string incarnation;
};

struct NewJob {
  std::string job_id;
  v1::JobSpec spec;
  std::string display_name;
  // Empty: no protection against a repeat.
  std::string request_id;
  // Of the canonical request; compared where request_id is known already.
  std::string request_digest;
  absl::Time now;
};

struct SubmitResult {
  JobRecord job;
  bool existed = false;
};

// What an ended attempt leads to; chosen by the retry rule from the record.
struct Outcome {
  // QUEUED, PENDING (BACKOFF), FAILED, SUCCEEDED or CANCELLED.
  v1::JobState to = v1::JOB_STATE_UNSPECIFIED;
  // Only for PENDING.
  absl::Duration backoff;
  // Added to the front of its priority band.
  bool requeue_at_head = false;
  // The attempt number is given back (a drain is nobody's fault).
  bool restore_attempt = false;
  // New values of the counters.
  int32_t transient_failures = 0;
  int32_t resource_failures = 0;
  int32_t unproductive_losses = 0;
  int64_t steps_at_last_loss = 0;
  // What is recorded where `to` is FAILED, and with the attempt.
  v1::Failure failure;
};

struct FinishedAttempt {
  LeaseKey lease;
  // Of the whole request: makes a repeat recognisable.
  std::string result_digest;
  v1::JobReport report;
  std::vector<v1::Artifact> artifacts;
  // Empty class: the attempt succeeded.
  v1::Failure failure;
  std::string log_tail;
  absl::Time now;
};

// One grant: one row of `attempts`.
struct AttemptRecord {
  std::string job_id;
  int64_t epoch = 0;
  int32_t attempt = 0;
  std::string worker_name;
  std::string incarnation;
  absl::Time start_time;
  std::optional<absl::Time> end_time;
  v1::Failure failure;
  std::string log_tail;
};

// One term of a filter; `value` is compared as text. States are written as
// "RUNNING", labels as label_key plus value.
struct FilterTerm {
  enum class Field { kState, kKind, kMethod, kModel, kWorker, kLabel, kName };
  Field field = Field::kState;
  // True: the term holds where the comparison does not.
  bool negated = false;
  std::string label_key;
  std::string value;
};

// A conjunction of disjunctions: in AIP-160 OR binds tighter than AND.
using JobFilter = std::vector<std::vector<FilterTerm>>;

struct JobPage {
  std::vector<JobRecord> jobs;
  // Pass as `before` for the next page; 0 on the last one.
  int64_t next_before = 0;
};

struct ArtifactPage {
  std::vector<v1::Artifact> artifacts;
  int64_t next_before = 0;
};

struct WorkerRecord {
  std::string worker_name;
  std::string incarnation;
  v1::Device device;
  std::string code_version;
  absl::Time registered_time;
};

// Jobs that do not run yet.
struct WaitingJobs {
  // PENDING ones by pending_reason.
  std::map<std::string, int64_t> pending;
  // When the QUEUED job that was submitted first was submitted.
  std::optional<absl::Time> oldest_queued;
};

// Figures of the store for metrics and readiness.
struct StoreStats {
  bool ready = true;
  int64_t commits = 0;
  int64_t operations = 0;
  int64_t failed_commits = 0;
  int64_t queued_operations = 0;
  int64_t wal_bytes = 0;
  int32_t schema_version = 0;
};

}  // namespace quantd::store
