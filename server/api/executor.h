// SPDX-License-Identifier: Apache-2.0
// Threads for what an RPC waits for: the store's commit above all. gRPC's own
// few callback threads never block.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace quantd::api {

// Thread-safe.
class Executor {
 public:
  // At most `max_queued` tasks wait; TryRun refuses beyond.
  Executor(int num_threads, size_t max_queued);
  // Runs what is queued, then joins the threads.
  ~Executor();

  // False where the queue is full: the caller answers at once.
  bool TryRun(std::function<void()> task);
  // For work that was admitted already, such as the next part of a stream.
  void Run(std::function<void()> task);

 private:
  void Work();

  const size_t max_queued_;
  absl::Mutex mu_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace quantd::api
