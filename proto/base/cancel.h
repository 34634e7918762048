// SPDX-License-Identifier: Apache-2.0
// A request to stop, polled at layer and batch boundaries.
#pragma once

#include <atomic>

#include "absl/status/status.h"

namespace quantd::base {

// Thread-safe. Shared by reference: whoever creates it outlives its readers.
class CancelToken {
 public:
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  // CANCELLED once Cancel was called.
  absl::Status Check() const {
    return cancelled() ? absl::CancelledError("cancelled") : absl::OkStatus();
  }

 private:
  std::atomic<bool> cancelled_{false};
};

}  // namespace quantd::base
