// SPDX-License-Identifier: Apache-2.0
// Every metric of the server, in one list: what exists is what stands here and
// in docs/operations/metrics.md.
#pragma once

#include <string>
#include <vector>

namespace quantd::metrics {

enum class Type { kCounter, kGauge, kHistogram };

struct MetricInfo {
  const char* name;
  Type type;
  std::vector<std::string> labels;
  const char* help;
  // Upper bounds, for histograms; the last one is +Inf and not written.
  std::vector<double> buckets;
};

// Alphabetical.
const std::vector<MetricInfo>& Catalog();

inline constexpr char kArtifactBytes[] = "quantd_artifact_bytes";
inline constexpr char kArtifactFreeBytes[] = "quantd_artifact_free_bytes";
inline constexpr char kBuildInfo[] = "quantd_build_info";
inline constexpr char kCancelLatency[] = "quantd_cancel_latency_seconds";
inline constexpr char kDbCommits[] = "quantd_db_commits_total";
inline constexpr char kDbErrors[] = "quantd_db_errors_total";
inline constexpr char kDbOperations[] = "quantd_db_operations_total";
inline constexpr char kDbWalBytes[] = "quantd_db_wal_bytes";
inline constexpr char kDbWriteQueue[] = "quantd_db_write_queue_length";
inline constexpr char kEventSubscribers[] = "quantd_event_subscribers";
inline constexpr char kEventsAppended[] = "quantd_events_appended_total";
inline constexpr char kFencedWrites[] = "quantd_fenced_writes_rejected_total";
inline constexpr char kHeartbeatDelay[] = "quantd_heartbeat_delay_seconds";
inline constexpr char kInputRejected[] = "quantd_input_rejected_total";
inline constexpr char kJobAttempts[] = "quantd_job_attempts_total";
inline constexpr char kJobFinished[] = "quantd_job_finished_total";
inline constexpr char kJobQueueDuration[] = "quantd_job_queue_duration_seconds";
inline constexpr char kJobRunDuration[] = "quantd_job_run_duration_seconds";
inline constexpr char kJobSubmitted[] = "quantd_job_submitted_total";
inline constexpr char kJobs[] = "quantd_jobs";
inline constexpr char kJobsPending[] = "quantd_jobs_pending";
inline constexpr char kLayerDuration[] = "quantd_layer_duration_seconds";
inline constexpr char kLeaseExpired[] = "quantd_lease_expired_total";
inline constexpr char kLeaseGranted[] = "quantd_lease_granted_total";
inline constexpr char kQueueOldest[] = "quantd_queue_oldest_timestamp_seconds";
inline constexpr char kReady[] = "quantd_ready";
inline constexpr char kResumes[] = "quantd_resume_total";
inline constexpr char kRpcHandled[] = "quantd_rpc_server_handled_total";
inline constexpr char kRpcHandling[] = "quantd_rpc_server_handling_seconds";
inline constexpr char kScrapeCollect[] = "quantd_scrape_collect_seconds";
inline constexpr char kStartTime[] = "quantd_start_time_seconds";
inline constexpr char kStepDuration[] = "quantd_step_duration_seconds";
inline constexpr char kWorkers[] = "quantd_workers";

}  // namespace quantd::metrics
