// SPDX-License-Identifier: Apache-2.0
// A worker: it tells the server what it holds, and makes what it holds what the
// server wants. Owns the threads below it; main only makes one and runs it.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "proto/base/clock.h"
#include "proto/base/ids.h"
#include "quantd/v1/catalog.pb.h"
#include "worker/agent/blob_transfer.h"
#include "worker/agent/device.h"
#include "worker/agent/heartbeat.h"
#include "worker/agent/reconcile.h"
#include "worker/agent/runner_process.h"
#include "worker/agent/server_link.h"
#include "worker/agent/state_directory.h"
#include "worker/agent/work.h"

namespace quantd::agent {

struct AgentOptions {
  // HOST:PORT of the server.
  std::string server;
  std::string name;
  std::string state_dir;
  // The blob directory shared with the server; empty: blobs travel by RPC.
  std::string blobs;
  std::string device = "auto";
  int threads = 0;
  std::string runner;
  SessionOptions session;
};

// Thread-safe. One piece of work at a time.
class Agent : private HeartbeatSource {
 public:
  // Locks the state directory, probes the device and asks the runner what it
  // can do. Errors of these as they are.
  static absl::StatusOr<std::unique_ptr<Agent>> Create(
      const AgentOptions& options, base::Clock& clock,
      base::IdGenerator& ids = base::IdGenerator::Real());
  ~Agent() override;

  // Works until a drain has ended. On the thread that calls it hang the lives
  // of waiting runners.
  void Run();
  // Takes no more work, lets the current step end, gives the job back. The
  // second call stops at once: what runs is killed and its lease expires.
  void Drain();

  // Fresh with every agent.
  const std::string& incarnation() const { return incarnation_; }

 private:
  struct Parts;
  Agent(const AgentOptions& options, base::Clock& clock, Parts parts);

  v1::RegisterRequest MakeRegister() override;
  v1::SynchronizeRequest MakeSynchronize() override;
  void OnSynchronized(const v1::SynchronizeResponse& response) override;

  void StartWork(const v1::Assignment& assignment)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  HeldLeases HeldLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnChanged();
  // Takes out the work that has ended. True where there was some.
  bool CollectEnded();
  void FenceIfSilent(absl::Duration time_to_fence);
  void KeepWarmRunner();
  bool IsOver();

  const AgentOptions options_;
  base::Clock& clock_;
  const std::string incarnation_;
  const v1::Catalog catalog_;
  const std::unique_ptr<StateDirectory> state_;
  const std::unique_ptr<DeviceProbe> device_;
  const std::unique_ptr<ServerLink> link_;
  const std::unique_ptr<BlobTransfer> blobs_;

  absl::Mutex mu_;
  std::map<LeaseKey, std::unique_ptr<Work>> works_ ABSL_GUARDED_BY(mu_);
  std::set<LeaseKey> stopped_ ABSL_GUARDED_BY(mu_);
  std::deque<LeaseKey> ended_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<RunnerProcess> warm_ ABSL_GUARDED_BY(mu_);
  absl::Duration next_warm_ ABSL_GUARDED_BY(mu_);
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool at_once_ ABSL_GUARDED_BY(mu_) = false;
  bool changed_ ABSL_GUARDED_BY(mu_) = false;
  // Set while Run is under way.
  Heartbeat* heartbeat_ ABSL_GUARDED_BY(mu_) = nullptr;
};

}  // namespace quantd::agent
