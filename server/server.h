// SPDX-License-Identifier: Apache-2.0
// A whole server: everything it owns, and the order in which it starts and
// stops.
#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "proto/base/clock.h"
#include "server/api/disk_usage.h"
#include "server/api/edge.h"
#include "server/api/grpc_server.h"
#include "server/config.h"
#include "server/embedded_worker.h"
#include "server/http/http_server.h"
#include "server/metrics/job_observer.h"
#include "server/metrics/metrics.h"
#include "server/scheduler/core.h"

namespace quantd::server {

class Server {
 public:
  struct Options {
    Config config;
    base::Clock* clock = &base::Clock::Real();
    api::Edge::Options edge;
  };
  // Serving when it returns, the port file written.
  static absl::StatusOr<std::unique_ptr<Server>> Start(Options options);
  // Drains: health goes NOT_SERVING, nothing more is granted, calls in flight
  // get 1 s, the store is checkpointed and closed. Workers go on.
  ~Server();

  const std::string& grpc_address() const { return grpc_address_; }
  const std::string& http_address() const { return http_address_; }
  scheduler::Core& core() { return *core_; }

 private:
  explicit Server(Options options);
  absl::Status Open();
  absl::Status Serve();
  absl::Status StartWorker();
  absl::StatusOr<std::string> PageKey() const;
  bool Ready();
  http::Response Readiness();
  std::string Scrape();
  void SetJobFigures();
  void SetWorkerFigures();
  void SetStoreFigures();
  api::DiskUsage Disk() ABSL_LOCKS_EXCLUDED(mu_);

  // Constant after Start.
  const Options options_;
  std::string blob_root_;
  std::string grpc_address_;
  std::string http_address_;
  // In the order of construction; destroyed the other way round.
  metrics::Metrics metrics_;
  metrics::JobObserver observer_{metrics_};
  std::unique_ptr<scheduler::Core> core_;
  std::unique_ptr<api::Edge> edge_;
  std::unique_ptr<api::GrpcServer> grpc_;
  std::unique_ptr<http::HttpServer> http_;
  std::unique_ptr<EmbeddedWorker> worker_;
  // Guarded by mu_. A walk over all blobs is not for every scrape.
  absl::Mutex mu_;
  api::DiskUsage disk_ ABSL_GUARDED_BY(mu_);
  absl::Duration disk_measured_ ABSL_GUARDED_BY(mu_) =
      -absl::InfiniteDuration();
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace quantd::server
