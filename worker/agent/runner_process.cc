// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/runner_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/status_macros.h"
#include "worker/agent/monotonic_wait.h"
#include "worker/agent/spawn.h"

namespace quantd::agent {
namespace {

// Time for the memory to come back that the kernel killed for.
constexpr absl::Duration kDescribePause = absl::Seconds(3);

absl::Status NoDescriptors() {
  return base::MakeError(absl::StatusCode::kUnavailable, "RUNNER_START_FAILED",
                         "no more file descriptors for a runner");
}

int OpenPidFd(pid_t pid) {
  return static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
}

// Waits until the process has ended, without reaping it.
bool AwaitPidFd(int pid_fd, absl::Duration timeout) {
  pollfd poll_fd = {pid_fd, POLLIN, 0};
  const int64_t wait_ms = std::clamp<int64_t>(
      absl::ToInt64Milliseconds(timeout), 0, 1000LL * 3600 * 24);
  return poll(&poll_fd, 1, static_cast<int>(wait_ms)) > 0;
}

ExitState Reap(pid_t pid) {
  // Children that the runner started go with it: the group still exists as
  // long as its leader is not reaped, so the number cannot mean another one.
  kill(-pid, SIGKILL);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) return {true, WTERMSIG(status)};
  return {false, WEXITSTATUS(status)};
}

int64_t ReadPeakMemory(pid_t pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/status"));
  std::string line;
  while (std::getline(in, line)) {
    long long kilobytes = 0;
    if (std::sscanf(line.c_str(), "VmHWM: %lld kB", &kilobytes) == 1) {
      return kilobytes * 1024;
    }
  }
  return 0;
}

// Reads a pipe to its end, for at most `timeout`.
std::string ReadPipe(int fd, absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  std::string bytes;
  std::array<char, 4096> part;
  pollfd poll_fd = {fd, POLLIN, 0};
  while (absl::Now() < end && poll(&poll_fd, 1, 1000) >= 0) {
    if (poll_fd.revents == 0) continue;
    const ssize_t count = read(fd, part.data(), part.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    bytes.append(part.data(), count);
  }
  return bytes;
}

// What a runner said of itself.
struct Answer {
  std::string bytes;
  // nullopt: it did not end by itself and was killed.
  std::optional<ExitState> end;
};

absl::StatusOr<Answer> AskRunner(const std::string& program,
                                 absl::Duration timeout) {
  int pipes[2];
  if (pipe2(pipes, O_CLOEXEC) != 0) return NoDescriptors();
  SpawnPlan plan;
  plan.program = program;
  plan.arguments = {"--describe"};
  plan.output_fd = pipes[1];
  const absl::StatusOr<pid_t> pid = SpawnChild(plan);
  close(pipes[1]);
  if (!pid.ok()) {
    close(pipes[0]);
    return pid.status();
  }
  Answer answer;
  answer.bytes = ReadPipe(pipes[0], timeout);
  const int pid_fd = OpenPidFd(*pid);
  const bool ended = AwaitPidFd(pid_fd, absl::Seconds(5));
  close(pid_fd);
  // Open until here: one that still writes is late, not killed by SIGPIPE.
  close(pipes[0]);
  const ExitState state = Reap(*pid);
  if (ended) answer.end = state;
  return answer;
}

void Pause(base::Clock& clock, absl::Duration pause) {
  absl::Mutex mu;
  absl::MutexLock lock(&mu);
  const bool never = false;
  AwaitUntil(mu, absl::Condition(&never), clock, clock.Monotonic() + pause);
}

}  // namespace

RunnerProcess::RunnerProcess(pid_t pid, int pid_fd, int socket_fd,
                             int output_fd)
    : pid_(pid), pid_fd_(pid_fd), output_fd_(output_fd), channel_(socket_fd) {}

absl::StatusOr<std::unique_ptr<RunnerProcess>> RunnerProcess::Spawn(
    const std::string& program) {
  int sockets[2];
  int pipes[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    return NoDescriptors();
  }
  if (pipe2(pipes, O_CLOEXEC) != 0) {
    close(sockets[0]);
    close(sockets[1]);
    return NoDescriptors();
  }
  fcntl(pipes[0], F_SETFL, O_NONBLOCK);
  SpawnPlan plan;
  plan.program = program;
  plan.arguments = {"--socket-fd", absl::StrCat(kSocketFd)};
  plan.output_fd = plan.error_fd = pipes[1];
  plan.socket_fd = sockets[1];
  const absl::StatusOr<pid_t> pid = SpawnChild(plan);
  close(sockets[1]);
  close(pipes[1]);
  if (!pid.ok()) {
    close(sockets[0]);
    close(pipes[0]);
    return pid.status();
  }
  return std::unique_ptr<RunnerProcess>(
      new RunnerProcess(*pid, OpenPidFd(*pid), sockets[0], pipes[0]));
}

RunnerProcess::~RunnerProcess() {
  Signal(SIGKILL);
  AwaitExit(absl::InfiniteDuration());
  close(pid_fd_);
  close(output_fd_);
}

void RunnerProcess::Signal(int number) {
  absl::MutexLock lock(&mu_);
  if (!exit_.has_value()) kill(-pid_, number);
}

std::optional<ExitState> RunnerProcess::AwaitExit(absl::Duration timeout) {
  {
    absl::MutexLock lock(&mu_);
    if (exit_.has_value()) return exit_;
  }
  if (!AwaitPidFd(pid_fd_, timeout)) return std::nullopt;
  absl::MutexLock lock(&mu_);
  if (!exit_.has_value()) exit_ = Reap(pid_);
  return exit_;
}

int64_t RunnerProcess::peak_memory_bytes() {
  absl::MutexLock lock(&mu_);
  if (!exit_.has_value()) {
    peak_memory_bytes_ = std::max(peak_memory_bytes_, ReadPeakMemory(pid_));
  }
  return peak_memory_bytes_;
}

absl::StatusOr<v1::Catalog> DescribeRunner(const std::string& program,
                                           absl::Duration timeout,
                                           base::Clock& clock) {
  for (int attempt = 1;; ++attempt) {
    ASSIGN_OR_RETURN(const Answer answer, AskRunner(program, timeout));
    v1::Catalog catalog;
    if (answer.end.has_value() && !answer.end->signalled &&
        answer.end->code == 0 && catalog.ParseFromString(answer.bytes)) {
      return catalog;
    }
    const bool again = answer.end.has_value() && answer.end->signalled &&
                       attempt < kDescribeAttempts;
    if (!again) {
      return base::MakeError(absl::StatusCode::kInternal,
                             "RUNNER_DESCRIBE_FAILED",
                             "the runner did not say what it can do");
    }
    spdlog::warn("signal {} ended the runner before it said what it can do",
                 answer.end->code);
    Pause(clock, kDescribePause);
  }
}

}  // namespace quantd::agent
