// SPDX-License-Identifier: Apache-2.0
// A server and a worker as real processes over one temporary directory, and a
// client of the server.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "quantd/v1/services.grpc.pb.h"
#include "tests/support/process.h"
#include "tests/support/test_data.h"

namespace quantd::integration {

// Used by one thread.
class Cluster {
 public:
  // `root`: where data and logs lie; the disk that a test wants them on.
  explicit Cluster(std::string root);
  ~Cluster();

  // Starts the server on the port it had before, or on a free one, and waits
  // until it serves. `flags` are added to its command line.
  void StartServer(const std::vector<std::string>& flags = {});
  void StartWorker();
  void KillServer();
  // Kills the agent; its runners die with it.
  void KillAgent();
  // Kills one runner process, if there is one; false where there is none.
  bool KillRunner();
  bool server_running() { return server_ != nullptr && server_->running(); }
  support::Process& server() { return *server_; }
  support::Process& agent() { return *agent_; }

  const std::string& address() const { return address_; }
  v1::JobService::StubInterface& jobs() { return *jobs_; }
  v1::ArtifactService::StubInterface& artifacts() { return *artifacts_; }

  // Submits with retries over outages; the same request id each time.
  std::string Submit(const v1::JobSpec& spec, const std::string& request_id);
  // Polls over outages until the job is terminal.
  v1::Job WaitTerminal(const std::string& job_id, absl::Duration timeout);
  // The events of a job, from the first.
  std::vector<v1::Event> Events(const std::string& job_id);
  // The manifest digest of each artifact of the job, sorted.
  std::vector<std::string> ManifestDigests(const std::string& job_id);
  std::string ServerLog() const;
  std::string WorkerLog() const;

 private:
  void Connect();

  const std::string root_;
  int port_ = 0;
  std::string address_;
  std::unique_ptr<support::Process> server_;
  std::unique_ptr<support::Process> agent_;
  std::unique_ptr<v1::JobService::StubInterface> jobs_;
  std::unique_ptr<v1::ArtifactService::StubInterface> artifacts_;
};

// A quantize job on the bundled tiny model, small enough to end in seconds.
v1::JobSpec TinyJob(const std::string& method, int bits);

}  // namespace quantd::integration
