// SPDX-License-Identifier: Apache-2.0
// Staying with a job until it ends: watch, wait and submit --watch.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/commands/session.h"
#include "quantd/v1/job.pb.h"

namespace quantd::commands {

struct FollowOptions {
  v1::Job job;
  int64_t from_seq = 1;
  // False: nothing is shown before the end.
  bool show_events = true;
};

// The exit code of the job once it has ended; prints how it ended. Breaks of
// the connection are bridged; Ctrl-C says that the job goes on.
absl::StatusOr<int> Follow(Session& session, const FollowOptions& options);

}  // namespace quantd::commands
