// SPDX-License-Identifier: Apache-2.0
// How long to wait before the next attempt at a server that did not answer.
#pragma once

#include <random>

#include "absl/time/time.h"

namespace quantd::rpc {

struct BackoffOptions {
  // Attempts of one call, the first included.
  int max_attempts = 5;
  absl::Duration initial_delay = absl::Milliseconds(200);
  absl::Duration max_delay = absl::Seconds(10);
};

// Doubling delays with jitter, so that clients which lost the server together
// do not return together. One thread.
class Backoff {
 public:
  explicit Backoff(const BackoffOptions& options);

  // The next delay: between half and the whole of the doubled bound.
  absl::Duration Next();
  // After a success: the next delay is the first one again.
  void Reset() { bound_ = options_.initial_delay; }

 private:
  const BackoffOptions options_;
  absl::Duration bound_;
  std::minstd_rand random_;
};

}  // namespace quantd::rpc
