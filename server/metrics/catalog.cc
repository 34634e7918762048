// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/catalog.h"

#include <utility>

namespace quantd::metrics {
namespace {

// A quantile is as exact as its bucket: boundaries are closest together where
// the usual values lie.
const std::vector<double> kRpcBuckets = {.001, .0025, .005, .01, .025, .05, .1,
                                         .25,  .5,    1,    2.5, 5,    10};
const std::vector<double> kRunBuckets = {1,    5,    15,   60,    300,   900,
                                         1800, 3600, 7200, 14400, 28800, 86400};
const std::vector<double> kCancelBuckets = {.1, .5, 1, 2, 5, 10, 15, 30, 60};
// A lease is 30 s long unless set otherwise; a worker fences itself 5 s before.
const std::vector<double> kHeartbeatBuckets = {.1, .5, 1, 2, 5, 10, 20, 30};
const std::vector<double> kLayerBuckets = {.1, .5, 1,  2,   5,
                                           10, 30, 60, 120, 300};

MetricInfo Counter(const char* name, const char* help,
                   std::vector<std::string> labels = {}) {
  return {name, Type::kCounter, std::move(labels), help, {}};
}

MetricInfo Gauge(const char* name, const char* help,
                 std::vector<std::string> labels = {}) {
  return {name, Type::kGauge, std::move(labels), help, {}};
}

MetricInfo Histogram(const char* name, const std::vector<double>& buckets,
                     const char* help, std::vector<std::string> labels = {}) {
  return {name, Type::kHistogram, std::move(labels), help, buckets};
}

}  // namespace

const std::vector<MetricInfo>& Catalog() {
  static const auto* catalog = new std::vector<MetricInfo>{
      Gauge(kArtifactBytes, "Bytes of all stored blobs."),
      Gauge(kArtifactFreeBytes,
            "Free bytes of the file system that blobs lie on."),
      Gauge(kBuildInfo, "Always 1; the version of the server.", {"version"}),
      Histogram(kCancelLatency, kCancelBuckets,
                "From a cancel request to the reaped process."),
      Counter(kDbCommits, "Commits of the job store."),
      Counter(kDbErrors, "Failed commits of the job store."),
      Counter(kDbOperations, "Writes that commits have carried."),
      Gauge(kDbWalBytes, "Size of the write-ahead log of the job store."),
      Gauge(kDbWriteQueue, "Writes that wait for the next commit."),
      Gauge(kEventSubscribers, "Open watch streams."),
      Counter(kEventsAppended, "Events stored."),
      Counter(kFencedWrites,
              "Writes of workers that had lost their lease, refused.", {"op"}),
      Histogram(kHeartbeatDelay, kHeartbeatBuckets,
                "How much later than agreed a worker was heard of."),
      Counter(kInputRejected, "Submitted jobs refused by validation.",
              {"reason"}),
      Counter(kJobAttempts, "Attempts that failed, by class of failure.",
              {"class"}),
      Counter(kJobFinished, "Jobs that came to an end.", {"result", "reason"}),
      Histogram(kJobQueueDuration, kRunBuckets, "From queued to granted."),
      Histogram(kJobRunDuration, kRunBuckets,
                "From an attempt's start to its end.", {"result"}),
      Counter(kJobSubmitted, "Jobs accepted.", {"kind"}),
      Gauge(kJobs, "Jobs stored, by state.", {"state"}),
      Gauge(kJobsPending, "Jobs that wait to be run, by what they wait for.",
            {"reason"}),
      Histogram(kLayerDuration, kLayerBuckets,
                "Time to quantize one linear layer."),
      Counter(
          kLeaseExpired,
          "Leases that ended because their worker fell silent or restarted."),
      Counter(kLeaseGranted, "Leases granted."),
      Gauge(kQueueOldest,
            "When the oldest queued job was submitted, in Unix time; now where "
            "none is queued."),
      Gauge(kReady, "1 where the server takes work, as /readyz says."),
      Counter(kResumes, "Further grants of a job, by where it goes on from.",
              {"from"}),
      Counter(kRpcHandled, "Finished RPCs by status code.", {"method", "code"}),
      Histogram(kRpcHandling, kRpcBuckets, "Time to answer a unary RPC.",
                {"method"}),
      Gauge(kScrapeCollect,
            "Time that gathering the figures of this scrape took."),
      Gauge(kStartTime, "When the server started, in Unix time."),
      Histogram(kStepDuration, kLayerBuckets, "Time of a committed step.",
                {"kind"}),
      Gauge(kWorkers, "Known workers, by state.", {"state"}),
  };
  return *catalog;
}

}  // namespace quantd::metrics
