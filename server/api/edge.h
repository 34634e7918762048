// SPDX-License-Identifier: Apache-2.0
// What every service stands on: the parts of the server it delegates to, and
// the one place where a unary call is admitted, timed, counted and answered.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "proto/base/blob_directory.h"
#include "proto/base/clock.h"
#include "proto/spec/page_token.h"
#include "server/api/executor.h"
#include "server/api/stream_set.h"
#include "server/jobs/jobs.h"
#include "server/metrics/metrics.h"
#include "server/scheduler/scheduler.h"
#include "server/store/store.h"

namespace quantd::api {

// Unary work is given up on after this, whatever the client allows.
inline constexpr absl::Duration kMaxUnaryTime = absl::Seconds(60);

// Everything pointed to outlives the services.
struct Backend {
  jobs::Jobs* jobs = nullptr;
  scheduler::Scheduler* scheduler = nullptr;
  store::Store* store = nullptr;
  base::BlobDirectory* blobs = nullptr;
  metrics::Metrics* metrics = nullptr;
  base::Clock* clock = nullptr;
  // Where blobs lie, for free space; named in no answer.
  std::string blob_root;
  std::string version;
};

// Thread-safe.
class Edge {
 public:
  struct Options {
    int num_threads = 32;
    size_t max_queued = 4096;
    absl::Duration bookmark_interval = absl::Seconds(15);
  };
  // `page_key` seals page tokens.
  Edge(Backend backend, std::string page_key, Options options);

  // Runs `body` on the executor and answers with its status. `method` is the
  // label in metrics. What `body` refers to of the request and the response
  // lives until then.
  grpc::ServerUnaryReactor* Unary(grpc::CallbackServerContext* context,
                                  const char* method,
                                  std::function<absl::Status()> body);
  // Counts a finished call; also for streams.
  void Count(const char* method, const absl::Status& status);

  // The catalog that jobs are checked against, kept from call to call.
  // NOT_FOUND, NO_CATALOG.
  absl::StatusOr<std::shared_ptr<const v1::Catalog>> Catalog();
  // A worker registered: the next Catalog() looks again.
  void ForgetCatalog();

  const Backend& backend() const { return backend_; }
  const spec::PageTokens& page_tokens() const { return page_tokens_; }
  Executor& executor() { return executor_; }
  StreamSet& streams() { return streams_; }
  absl::Time start_time() const { return start_time_; }

 private:
  absl::Status Guarded(grpc::CallbackServerContext* context,
                       absl::Time admitted,
                       const std::function<absl::Status()>& body);

  // Constant after construction.
  const Backend backend_;
  const spec::PageTokens page_tokens_;
  const absl::Time start_time_;
  // Self-synchronized.
  Executor executor_;
  StreamSet streams_;
  // Guarded by mu_. Shared with calls that still read an older one.
  absl::Mutex mu_;
  std::shared_ptr<const v1::Catalog> catalog_ ABSL_GUARDED_BY(mu_);
  // Counts ForgetCatalog, so that a read that began before one is not kept.
  int64_t registrations_ ABSL_GUARDED_BY(mu_) = 0;
};

// Moves the value of `result` into `*out`.
template <typename T>
absl::Status Assign(absl::StatusOr<T> result, T* out) {
  if (result.ok()) *out = *std::move(result);
  return result.status();
}

}  // namespace quantd::api
