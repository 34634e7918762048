// SPDX-License-Identifier: Apache-2.0
// A request to stop, polled at layer and batch boundaries.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>

#include "absl/status/status.h"

namespace quantd::base {

// Thread-safe. Shared by reference: whoever creates it outlives its readers.
class CancelToken {
 public:
  void Cancel() { CancelAfter(std::numeric_limits<int64_t>::min()); }
  // From the given number of looks on it is cancelled: so that tests can end
  // work at each place where it looks.
  void CancelAfter(int64_t looks) {
    last_look_.store(looks, std::memory_order_relaxed);
  }
  bool cancelled() const {
    return looks_.fetch_add(1, std::memory_order_relaxed) >=
           last_look_.load(std::memory_order_relaxed);
  }
  // How often it was asked.
  int64_t looks() const { return looks_.load(std::memory_order_relaxed); }
  // CANCELLED once Cancel was called.
  absl::Status Check() const {
    return cancelled() ? absl::CancelledError("cancelled") : absl::OkStatus();
  }

 private:
  mutable std::atomic<int64_t> looks_{0};
  std::atomic<int64_t> last_look_{std::numeric_limits<int64_t>::max()};
};

}  // namespace quantd::base
