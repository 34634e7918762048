// SPDX-License-Identifier: Apache-2.0
// The RPCs of a worker, one attempt each, with a deadline each. Heartbeats have
// a connection of their own, so that no upload stands before them.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "quantd/v1/services.grpc.pb.h"
#include "worker/agent/call_group.h"

namespace quantd::agent {

// Thread-safe. Errors carry the server's reasons.
class ServerLink {
 public:
  // `address` is HOST:PORT; connects on first use.
  explicit ServerLink(const std::string& address);

  absl::StatusOr<v1::RegisterResponse> Register(
      const v1::RegisterRequest& request, absl::Duration deadline);
  absl::StatusOr<v1::SynchronizeResponse> Synchronize(
      const v1::SynchronizeRequest& request, absl::Duration deadline);
  // Calls `on_wake` for every message until the stream ends, and says why it
  // ended. `calls` ends it from outside.
  absl::Status Wake(const v1::WakeRequest& request, CallGroup& calls,
                    const std::function<void()>& on_wake);

  absl::Status CommitStep(const v1::CommitStepRequest& request,
                          CallGroup& calls);
  absl::StatusOr<v1::FinishResponse> Finish(const v1::FinishRequest& request,
                                            CallGroup& calls);
  absl::StatusOr<v1::AppendLogResponse> AppendLog(
      const v1::AppendLogRequest& request, CallGroup& calls);
  // Sends `file`, whose digest is `blob`.
  absl::Status WriteBlob(const v1::BlobRef& blob, const std::string& file,
                         CallGroup& calls);
  // Writes the bytes of a blob to the new file `file`, unchecked.
  absl::Status ReadBlob(const std::string& sha256, const std::string& file,
                        CallGroup& calls);

 private:
  const std::unique_ptr<v1::WorkerService::Stub> beats_;
  const std::unique_ptr<v1::WorkerService::Stub> data_;
};

}  // namespace quantd::agent
