// SPDX-License-Identifier: Apache-2.0
// Time, injected, so that tests move it by hand.
#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace quantd::base {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Wall time: for people and records, never for leases.
  virtual absl::Time Now() = 0;
  // Time since an arbitrary start that never jumps and counts suspended time.
  virtual absl::Duration Monotonic() = 0;

  // The machine's clock; never destroyed.
  static Clock& Real();
};

}  // namespace quantd::base
