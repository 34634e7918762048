// SPDX-License-Identifier: Apache-2.0
// `qctl --local`: a server with one worker, started for one command. Its data
// stays in $XDG_STATE_HOME/quantd/local, so that a later command finds the jobs
// and artifacts of an earlier one.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/commands/interrupt.h"
#include "client/commands/settings.h"
#include "client/rpc/client.h"

namespace quantd::commands {

// The destructor stops the server (SIGTERM) and waits for its end.
class LocalServer {
 public:
  struct Options {
    std::string program_directory;
    Environment environment;
    Interrupt& interrupt;
  };

  // UNAVAILABLE, LOCAL_SERVER_FAILED where it does not serve within 30 s; the
  // message has the end of its log.
  static absl::StatusOr<std::unique_ptr<LocalServer>> Start(
      const Options& options);
  ~LocalServer();
  LocalServer(const LocalServer&) = delete;
  LocalServer& operator=(const LocalServer&) = delete;

  // HOST:PORT.
  const std::string& address() const { return address_; }
  // Until its worker has registered, which a submit needs.
  absl::Status WaitForWorker(rpc::Client& client) const;

 private:
  LocalServer(const Options& options, std::string directory);
  absl::Status Spawn(const std::string& program);
  absl::Status WaitForPort();
  absl::Status Failed(const std::string& what) const;
  void Stop();

  const std::string directory_;
  pid_t pid_ = -1;
  std::string address_;
  Interrupt::Scope stop_on_interrupt_;
};

}  // namespace quantd::commands
