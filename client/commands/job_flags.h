// SPDX-License-Identifier: Apache-2.0
// What every command that submits a job accepts, and the submit itself.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/commands/session.h"
#include "quantd/v1/job.pb.h"

namespace CLI {
class App;
}

namespace quantd::commands {

struct JobFlags {
  int priority = 0;
  std::vector<std::string> labels;
  std::string request_id;
  bool dry_run = false;
  bool watch = false;
  bool wait = false;
};

void AddJobFlags(CLI::App& command, JobFlags* flags);

// Submits `spec` with what the flags add, under a request id that is told
// before the first attempt, so that a submit which was cut off can be repeated
// without a second job. Then follows the job where the flags ask for it.
absl::StatusOr<int> SubmitSpec(Session& session, const JobFlags& flags,
                               v1::JobSpec spec);

}  // namespace quantd::commands
