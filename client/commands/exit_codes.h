// SPDX-License-Identifier: Apache-2.0
// What scripts can rely on.
#pragma once

#include "absl/status/status.h"
#include "quantd/v1/job.pb.h"

namespace quantd::commands {

inline constexpr int kExitSucceeded = 0;
inline constexpr int kExitError = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitJobFailed = 3;
inline constexpr int kExitNotAuthorised = 4;
inline constexpr int kExitCancelled = 5;
inline constexpr int kExitNotFound = 6;
inline constexpr int kExitTimeout = 7;
inline constexpr int kExitUnavailable = 8;
inline constexpr int kExitInterrupted = 130;

int ExitCodeOf(const absl::Status& status);
// Of a job that has ended; kExitError for one that has not.
int ExitCodeOf(v1::JobState state);

}  // namespace quantd::commands
