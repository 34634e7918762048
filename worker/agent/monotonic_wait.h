// SPDX-License-Identifier: Apache-2.0
// Waiting on a mutex by a clock that no operator can set. Timeouts of
// absl::Mutex follow the wall clock, so a step of it could stretch or cut them.
#pragma once

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/base/clock.h"

namespace quantd::agent {

// Waits until `condition` holds or `clock.Monotonic()` reaches `deadline`. The
// caller holds `mu`. Returns whether the condition holds.
bool AwaitUntil(absl::Mutex& mu, const absl::Condition& condition,
                base::Clock& clock, absl::Duration deadline)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

}  // namespace quantd::agent
