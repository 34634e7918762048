// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/monotonic_wait.h"

#include <algorithm>

namespace quantd::agent {
namespace {

// A step of the wall clock costs at most this much.
constexpr absl::Duration kSlice = absl::Seconds(1);

}  // namespace

bool AwaitUntil(absl::Mutex& mu, const absl::Condition& condition,
                base::Clock& clock, absl::Duration deadline) {
  for (;;) {
    const absl::Duration left = deadline - clock.Monotonic();
    if (mu.AwaitWithTimeout(condition,
                            std::clamp(left, absl::ZeroDuration(), kSlice))) {
      return true;
    }
    if (left <= absl::ZeroDuration()) return false;
  }
}

}  // namespace quantd::agent
