// SPDX-License-Identifier: Apache-2.0
#include "server/server.h"

#include <openssl/rand.h>

#include <filesystem>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/base/atomic_file.h"
#include "proto/base/status_macros.h"
#include "server/api/listen_address.h"
#include "spdlog/spdlog.h"

namespace quantd::server {
namespace {

// Calls take milliseconds, uploads are repeated, and the leases of the workers
// run on: a stop that is waited out is worse than a call that is cut.
constexpr absl::Duration kGrace = absl::Seconds(1);
constexpr absl::Duration kWorkerGrace = absl::Seconds(4);
constexpr absl::Duration kDiskInterval = absl::Seconds(60);
constexpr size_t kPageKeyBytes = 32;
constexpr char kTextFormat[] = "text/plain; version=0.0.4; charset=utf-8";

// All states of a closed list, so that a state without jobs is a 0.
std::map<std::string, int64_t> EmptyStates() {
  std::map<std::string, int64_t> states;
  for (int i = v1::JOB_STATE_PENDING; i <= v1::JOB_STATE_CANCELLED; ++i) {
    states[v1::JobState_Name(static_cast<v1::JobState>(i))] = 0;
  }
  return states;
}

std::string StateWord(const std::string& name) {
  return absl::AsciiStrToLower(absl::StripPrefix(name, "JOB_STATE_"));
}

}  // namespace

Server::Server(Options options) : options_(std::move(options)) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(Options options) {
  std::unique_ptr<Server> server(new Server(std::move(options)));
  RETURN_IF_ERROR(server->Open());
  RETURN_IF_ERROR(server->Serve());
  RETURN_IF_ERROR(server->StartWorker());
  return server;
}

absl::Status Server::Open() {
  const Config& config = options_.config;
  blob_root_ = config.data_dir + "/blobs";
  scheduler::Core::Options options;
  options.data_dir = config.data_dir;
  options.blob_dir = blob_root_;
  options.lease_ttl = config.lease_ttl;
  options.clock = options_.clock;
  options.metrics = &metrics_;
  options.observer = [this](const std::vector<v1::Event>& events) {
    observer_.OnEvents(events);
  };
  ASSIGN_OR_RETURN(core_, scheduler::Core::Open(std::move(options)));
  ASSIGN_OR_RETURN(std::string page_key, PageKey());
  api::Backend backend;
  backend.jobs = &core_->jobs();
  backend.scheduler = &core_->scheduler();
  backend.store = &core_->store();
  backend.blobs = &core_->blobs();
  backend.metrics = &metrics_;
  backend.clock = options_.clock;
  backend.blob_root = blob_root_;
  backend.version = QUANTD_VERSION;
  edge_ = std::make_unique<api::Edge>(std::move(backend), std::move(page_key),
                                      options_.edge);
  metrics_.Set(metrics::kBuildInfo, 1, {QUANTD_VERSION});
  metrics_.Set(metrics::kStartTime,
               static_cast<double>(absl::ToUnixSeconds(edge_->start_time())));
  return absl::OkStatus();
}

absl::Status Server::Serve() {
  const Config& config = options_.config;
  ASSIGN_OR_RETURN(const api::ListenAddress grpc_listen,
                   api::ParseLoopback(config.listen, "--listen"));
  ASSIGN_OR_RETURN(const api::ListenAddress http_listen,
                   api::ParseLoopback(config.http_listen, "--http-listen"));
  core_->scheduler().Start();
  ASSIGN_OR_RETURN(
      grpc_, api::GrpcServer::Start(*edge_, grpc_listen, config.reflection));
  ASSIGN_OR_RETURN(http_,
                   http::HttpServer::Start(
                       http_listen.host, http_listen.port,
                       {{"/metrics",
                         [this] {
                           return http::Response{200, kTextFormat, Scrape()};
                         }},
                        {"/healthz",
                         [] {
                           return http::Response{200, "text/plain", "ok\n"};
                         }},
                        {"/readyz", [this] { return Readiness(); }}}));
  grpc_->SetServing(true);
  grpc_address_ = api::AddressText(grpc_listen.host, grpc_->port());
  http_address_ = api::AddressText(http_listen.host, http_->port());
  spdlog::info("serving gRPC on {}, HTTP on {}", grpc_address_, http_address_);
  if (config.port_file.empty()) return absl::OkStatus();
  return base::WriteFileAtomically(
      config.port_file,
      absl::StrCat("grpc=", grpc_address_, "\nhttp=", http_address_, "\n"));
}

absl::Status Server::StartWorker() {
  if (!options_.config.embedded) return absl::OkStatus();
  ASSIGN_OR_RETURN(std::string program, ProgramBeside("quant-worker"));
  worker_ = std::make_unique<EmbeddedWorker>(std::vector<std::string>{
      std::move(program), "--server", grpc_address_, "--name", "embedded",
      "--state-dir", options_.config.data_dir + "/worker", "--blobs",
      blob_root_, "--device", options_.config.device, "--log-level",
      options_.config.log_level});
  return absl::OkStatus();
}

Server::~Server() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (grpc_) grpc_->SetServing(false);
  // The worker drains while it can still hand its job back.
  if (core_) core_->scheduler().StopGranting();
  if (worker_) worker_->Stop(kWorkerGrace);
  if (grpc_) grpc_->Shutdown(kGrace);
  http_.reset();
  grpc_.reset();
  edge_.reset();
  // Closing the store checkpoints its log.
  core_.reset();
}

absl::StatusOr<std::string> Server::PageKey() const {
  const std::string path = options_.config.data_dir + "/page_token.key";
  absl::StatusOr<std::string> stored = base::ReadFile(path, kPageKeyBytes);
  if (stored.ok() && stored->size() == kPageKeyBytes) return stored;
  std::string key(kPageKeyBytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(key.data()),
                 static_cast<int>(key.size())) != 1) {
    return absl::InternalError("the random source failed");
  }
  RETURN_IF_ERROR(base::WriteFileAtomically(path, key));
  std::error_code ignored;
  std::filesystem::permissions(
      path,
      std::filesystem::perms::owner_read | std::filesystem::perms::owner_write,
      ignored);
  return key;
}

api::DiskUsage Server::Disk() {
  const absl::Duration now = options_.clock->Monotonic();
  {
    absl::MutexLock lock(&mu_);
    if (now - disk_measured_ < kDiskInterval) return disk_;
  }
  const api::DiskUsage disk = api::MeasureDisk(blob_root_);
  absl::MutexLock lock(&mu_);
  disk_ = disk;
  disk_measured_ = now;
  return disk;
}

bool Server::Ready() {
  {
    absl::MutexLock lock(&mu_);
    if (stopping_) return false;
  }
  std::error_code error;
  const auto space = std::filesystem::space(blob_root_, error);
  return !error &&
         space.available >= static_cast<uintmax_t>(api::kReserveBytes) &&
         core_->store().Stats().ready;
}

http::Response Server::Readiness() {
  if (Ready()) return {200, "text/plain", "ready\n"};
  return {503, "text/plain",
          "not ready: stopping, or the store or the disk takes no writes\n"};
}

void Server::SetJobFigures() {
  std::map<std::string, int64_t> states = EmptyStates();
  if (const auto counts = core_->store().CountJobs(); counts.ok()) {
    for (const auto& [state, count] : *counts) {
      states[v1::JobState_Name(state)] = count;
    }
  }
  for (const auto& [name, count] : states) {
    metrics_.Set(metrics::kJobs, static_cast<double>(count), {StateWord(name)});
  }
  const auto waiting = core_->store().Waiting();
  if (!waiting.ok()) return;
  const absl::Time oldest =
      waiting->oldest_queued.value_or(options_.clock->Now());
  metrics_.Set(metrics::kQueueOldest,
               static_cast<double>(absl::ToUnixMillis(oldest)) / 1000);
  const int64_t num_queued = states[v1::JobState_Name(v1::JOB_STATE_QUEUED)];
  for (const auto& [reason, count] :
       core_->scheduler().CountWaiting(*waiting, num_queued)) {
    metrics_.Set(metrics::kJobsPending, static_cast<double>(count), {reason});
  }
}

void Server::SetWorkerFigures() {
  std::map<std::string, int64_t> workers = {
      {"idle", 0}, {"busy", 0}, {"draining", 0}, {"lost", 0}};
  for (const v1::WorkerStatus& worker : core_->scheduler().ListWorkers()) {
    ++workers[absl::AsciiStrToLower(worker.state())];
  }
  for (const auto& [state, count] : workers) {
    metrics_.Set(metrics::kWorkers, static_cast<double>(count), {state});
  }
}

void Server::SetStoreFigures() {
  const store::StoreStats stats = core_->store().Stats();
  metrics_.RaiseTo(metrics::kDbCommits, static_cast<double>(stats.commits));
  metrics_.RaiseTo(metrics::kDbOperations,
                   static_cast<double>(stats.operations));
  metrics_.RaiseTo(metrics::kDbErrors,
                   static_cast<double>(stats.failed_commits));
  metrics_.Set(metrics::kDbWalBytes, static_cast<double>(stats.wal_bytes));
  metrics_.Set(metrics::kDbWriteQueue,
               static_cast<double>(stats.queued_operations));
  const api::DiskUsage disk = Disk();
  metrics_.Set(metrics::kArtifactBytes, static_cast<double>(disk.used_bytes));
  metrics_.Set(metrics::kArtifactFreeBytes,
               static_cast<double>(disk.free_bytes));
}

std::string Server::Scrape() {
  const absl::Duration begin = options_.clock->Monotonic();
  SetJobFigures();
  SetWorkerFigures();
  SetStoreFigures();
  metrics_.Set(metrics::kEventSubscribers,
               static_cast<double>(core_->hub().num_subscribers()));
  metrics_.Set(metrics::kReady, Ready() ? 1 : 0);
  metrics_.Set(metrics::kScrapeCollect,
               absl::ToDoubleSeconds(options_.clock->Monotonic() - begin));
  return metrics_.Text();
}

}  // namespace quantd::server
