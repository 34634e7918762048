// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/spawn.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/base/error.h"

extern char** environ;

namespace quantd::agent {
namespace {

// What a runner may know of our environment. Credentials are not among it.
constexpr const char* kPassedOn[] = {"PATH=",
                                     "HOME=",
                                     "TMPDIR=",
                                     "LANG=",
                                     "LC_ALL=",
                                     "TZ=",
                                     "CUDA_",
                                     "NVIDIA_",
                                     "QUANTD_SHARE=",
                                     "LD_",
                                     "OMP_",
                                     "MKL_",
                                     "QUANTD_DATASETS=",
                                     "ASAN_OPTIONS=",
                                     "UBSAN_OPTIONS=",
                                     "TSAN_OPTIONS="};
// Where the kernel has to choose, it takes the runner and spares the agent.
constexpr char kOomScore[] = "500";

std::vector<std::string> Environment() {
  std::vector<std::string> kept;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    for (const char* prefix : kPassedOn) {
      if (absl::StartsWith(*entry, prefix)) {
        kept.push_back(*entry);
        break;
      }
    }
  }
  // Threads that spin while they wait cost a busy machine several times the
  // computation; waking them costs an idle one a few percent.
  const bool chosen =
      std::any_of(kept.begin(), kept.end(), [](const std::string& entry) {
        return absl::StartsWith(entry, "OMP_WAIT_POLICY=");
      });
  if (!chosen) kept.push_back("OMP_WAIT_POLICY=PASSIVE");
  return kept;
}

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

void ResetSignals() {
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGCHLD}) {
    signal(number, SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

void PreferForOom() {
  const int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  // Best effort: without it the kernel goes by size, which mostly agrees.
  if (write(fd, kOomScore, sizeof(kOomScore) - 1) < 0) errno = 0;
  close(fd);
}

// Runs in the child between fork and exec: async-signal-safe calls only.
[[noreturn]] void BecomeChild(const SpawnPlan& plan, pid_t parent,
                              char* const* argv, char* const* envp) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The parent may have died before the line above.
  if (getppid() != parent) _exit(125);
  ResetSignals();
  PreferForOom();
  const int null_fd = open("/dev/null", O_RDONLY);
  if (null_fd > 0) dup2(null_fd, 0);
  if (plan.output_fd >= 0) dup2(plan.output_fd, 1);
  if (plan.error_fd >= 0) dup2(plan.error_fd, 2);
  syscall(SYS_close_range, kSocketFd, ~0U, CLOSE_RANGE_CLOEXEC);
  if (plan.socket_fd == kSocketFd) {
    fcntl(kSocketFd, F_SETFD, 0);
  } else if (plan.socket_fd >= 0) {
    dup2(plan.socket_fd, kSocketFd);
  }
  execve(argv[0], argv, envp);
  _exit(127);
}

}  // namespace

absl::StatusOr<pid_t> SpawnChild(const SpawnPlan& plan) {
  if (access(plan.program.c_str(), X_OK) != 0) {
    return base::MakeError(absl::StatusCode::kUnavailable,
                           "RUNNER_START_FAILED",
                           "the runner program is missing or not executable");
  }
  std::vector<std::string> arguments = {plan.program};
  arguments.insert(arguments.end(), plan.arguments.begin(),
                   plan.arguments.end());
  std::vector<std::string> environment = Environment();
  const std::vector<char*> argv = Pointers(arguments);
  const std::vector<char*> envp = Pointers(environment);
  const pid_t parent = getpid();
  // _Fork runs no fork handlers: those of a library with threads may wait for
  // locks that the child will never get.
  const pid_t pid = _Fork();
  if (pid == 0) BecomeChild(plan, parent, argv.data(), envp.data());
  if (pid < 0) {
    return base::MakeError(absl::StatusCode::kUnavailable,
                           "RUNNER_START_FAILED",
                           "no process could be started");
  }
  // Both sides set it, so that it holds whoever comes first.
  setpgid(pid, pid);
  return pid;
}

}  // namespace quantd::agent
