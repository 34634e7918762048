// SPDX-License-Identifier: Apache-2.0
// Starting a child process that cannot outlive the thread that starts it, with
// nothing of ours but what is named here.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace quantd::agent {

struct SpawnPlan {
  std::string program;
  std::vector<std::string> arguments;
  // Our descriptors that become the child's 1 and 2; -1 leaves ours.
  int output_fd = -1;
  int error_fd = -1;
  // Becomes the child's kSocketFd; -1 for none.
  int socket_fd = -1;
};

inline constexpr int kSocketFd = 3;

// The child is the leader of its own process group, has an environment of a few
// named variables, no other descriptors and default signals, and is killed when
// the calling thread ends. UNAVAILABLE (RUNNER_START_FAILED).
absl::StatusOr<pid_t> SpawnChild(const SpawnPlan& plan);

}  // namespace quantd::agent
