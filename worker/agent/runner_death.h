// SPDX-License-Identifier: Apache-2.0
// Why a runner died, as a failure of the attempt.
#pragma once

#include <cstdint>
#include <string>

#include "quantd/v1/job.pb.h"
#include "worker/agent/runner_process.h"

namespace quantd::agent {

// The counters that the kernel raises when it kills for memory, of our control
// group (version 1 or 2) and of the machine. Make it before the runner works.
class OomEvidence {
 public:
  // `root` is "/" but in tests.
  explicit OomEvidence(std::string root = "/");
  // True where a counter rose since this object was made.
  bool Happened() const;

 private:
  const std::string root_;
  const int64_t group_kills_;
  const int64_t machine_kills_;
};

// The failure of a runner that ended without a result. Only a SIGKILL together
// with the kernel's own evidence is RUNNER_OUT_OF_MEMORY.
v1::Failure FailureOfDeadRunner(const ExitState& state, bool oom_evidence,
                                int64_t peak_memory_bytes);

}  // namespace quantd::agent
