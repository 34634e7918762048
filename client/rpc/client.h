// SPDX-License-Identifier: Apache-2.0
// A connection to quantd. Owns the channel; thread-safe; calls block. Every
// call has a deadline and is repeated with growing delays while the server is
// UNAVAILABLE, which is safe because each of them is idempotent.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/rpc/backoff.h"
#include "quantd/v1/services.pb.h"

namespace quantd::rpc {

struct ClientOptions {
  // HOST:PORT.
  std::string server;
  // For one attempt of a unary call.
  absl::Duration call_timeout = absl::Seconds(10);
  BackoffOptions backoff;
  // How long a broken event stream is taken up again without a success.
  absl::Duration reconnect_limit = absl::Minutes(10);
  // Told before each wait; may be empty.
  std::function<void(const absl::Status& error, absl::Duration delay)> on_retry;
};

struct WatchOptions {
  std::string job_id;
  // The first event wanted.
  int64_t from_seq = 1;
  // When to give up: DEADLINE_EXCEEDED.
  absl::Time deadline = absl::InfiniteFuture();
};

class Client {
 public:
  explicit Client(ClientOptions options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  absl::StatusOr<v1::SubmitJobResponse> SubmitJob(
      const v1::SubmitJobRequest& request);
  absl::StatusOr<v1::Job> GetJob(const std::string& job_id);
  absl::StatusOr<v1::ListJobsResponse> ListJobs(
      const v1::ListJobsRequest& request);
  absl::StatusOr<v1::Job> CancelJob(const std::string& job_id);
  absl::StatusOr<v1::Job> RetryJob(const std::string& job_id);
  absl::StatusOr<v1::ExplainJobResponse> ExplainJob(const std::string& job_id);
  absl::StatusOr<v1::ReadJobLogResponse> ReadJobLog(
      const v1::ReadJobLogRequest& request);
  absl::StatusOr<v1::Artifact> GetArtifact(const std::string& artifact_id);
  absl::StatusOr<v1::ListArtifactsResponse> ListArtifacts(
      const v1::ListArtifactsRequest& request);
  absl::StatusOr<v1::Catalog> GetCatalog();
  // The same, but gives a worker that is just starting `limit` to register.
  absl::StatusOr<v1::Catalog> AwaitCatalog(absl::Duration limit);
  absl::StatusOr<v1::GetServerStatusResponse> GetServerStatus();
  absl::StatusOr<v1::ListWorkersResponse> ListWorkers();

  // Hands every event to `on_event`, in order and each stored one exactly once
  // however often the stream breaks, until the server ends the stream. Progress
  // and bookmarks (seq 0) are handed over as they come. DATA_LOSS, EVENT_GAP
  // where the server skips a number again and again.
  absl::Status WatchJob(const WatchOptions& options,
                        const std::function<void(const v1::Event&)>& on_event);

  // Streams a blob's bytes to `sink`, going on after a break where it stopped.
  // DATA_LOSS, BLOB_DIGEST_MISMATCH where size or SHA-256 differ at the end; an
  // error of `sink` ends the stream and is returned.
  absl::Status ReadBlob(
      const v1::BlobRef& blob,
      const std::function<absl::Status(absl::string_view)>& sink);

 private:
  struct Stubs;

  // Sleeps for `delay` after telling on_retry.
  void WaitToRetry(const absl::Status& error, absl::Duration delay) const;
  template <typename Stub, typename Method, typename Request, typename Response>
  absl::Status Call(Stub& stub, Method method, const Request& request,
                    Response* response);
  absl::Status ReadBlobFrom(
      const v1::BlobRef& blob, int64_t offset,
      const std::function<absl::Status(absl::string_view)>& sink);

  const ClientOptions options_;
  const std::unique_ptr<Stubs> stubs_;
};

}  // namespace quantd::rpc
