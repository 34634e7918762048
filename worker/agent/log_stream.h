// SPDX-License-Identifier: Apache-2.0
// Sends a log to the server as it grows.
#pragma once

#include <thread>

#include "absl/time/time.h"
#include "quantd/v1/worker.pb.h"
#include "worker/agent/log_buffer.h"
#include "worker/agent/server_link.h"

namespace quantd::agent {

// The references outlive it. Its thread ends when the log is closed and sent,
// or when the server refuses the lease.
class LogStream {
 public:
  LogStream(const v1::Lease& lease, LogBuffer& log, ServerLink& link,
            CallGroup& calls);
  // Waits for a call that is under way; cancel `calls` to shorten that.
  ~LogStream();

  // Closes the log and waits until the server has it, at most `timeout`.
  void CloseAndAwait(absl::Duration timeout);

 private:
  void Run();

  const v1::Lease lease_;
  LogBuffer& log_;
  ServerLink& link_;
  CallGroup& calls_;

  absl::Mutex mu_;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  bool leaving_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace quantd::agent
