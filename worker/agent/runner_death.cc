// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/runner_death.h"

#include <signal.h>

#include <cstring>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/spec/failure.h"

namespace quantd::agent {
namespace {

// The number behind "oom_kill" in a file of "word number" lines; -1: none.
int64_t CounterIn(const std::string& path) {
  std::ifstream in(path);
  std::string word;
  int64_t value = 0;
  while (in >> word >> value) {
    if (word == "oom_kill") return value;
  }
  return -1;
}

// A line is "number:controllers:path"; version 2 has no controllers.
int64_t GroupKills(const std::string& root) {
  std::ifstream in(absl::StrCat(root, "proc/self/cgroup"));
  const std::string base = absl::StrCat(root, "sys/fs/cgroup");
  int64_t kills = -1;
  std::string line;
  while (kills < 0 && std::getline(in, line)) {
    const std::vector<std::string> parts =
        absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (parts[1] == "memory") {
      kills = CounterIn(
          absl::StrCat(base, "/memory", parts[2], "/memory.oom_control"));
      // Inside a container the group may be mounted as the root.
      if (kills < 0) kills = CounterIn(base + "/memory/memory.oom_control");
    } else if (parts[1].empty()) {
      kills = CounterIn(absl::StrCat(base, parts[2], "/memory.events"));
    }
  }
  return kills;
}

int64_t MachineKills(const std::string& root) {
  return CounterIn(absl::StrCat(root, "proc/vmstat"));
}

std::string Describe(const ExitState& state) {
  if (!state.signalled) return absl::StrCat("exit status ", state.code);
  const char* name = sigabbrev_np(state.code);
  return name == nullptr ? absl::StrCat("signal ", state.code)
                         : absl::StrCat("SIG", name);
}

}  // namespace

OomEvidence::OomEvidence(std::string root)
    : root_(std::move(root)),
      group_kills_(GroupKills(root_)),
      machine_kills_(MachineKills(root_)) {}

bool OomEvidence::Happened() const {
  return GroupKills(root_) > group_kills_ ||
         MachineKills(root_) > machine_kills_;
}

v1::Failure FailureOfDeadRunner(const ExitState& state, bool oom_evidence,
                                int64_t peak_memory_bytes) {
  v1::Failure failure;
  if (oom_evidence && state.signalled && state.code == SIGKILL) {
    failure = spec::MakeFailure(
        spec::kClassResource, "RUNNER_OUT_OF_MEMORY",
        absl::StrCat("the kernel killed the runner for want of memory; it had "
                     "used ",
                     peak_memory_bytes >> 20, " MiB"));
  } else {
    failure = spec::MakeFailure(
        spec::kClassLost, "RUNNER_CRASHED",
        absl::StrCat("the runner ended without a result: ", Describe(state)));
    (*failure.mutable_metadata())["exit"] = Describe(state);
  }
  (*failure.mutable_metadata())["peak_memory_bytes"] =
      absl::StrCat(peak_memory_bytes);
  return failure;
}

}  // namespace quantd::agent
