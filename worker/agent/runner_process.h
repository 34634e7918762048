// SPDX-License-Identifier: Apache-2.0
// One quant-runner process: its socket, its output and its end.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/base/clock.h"
#include "proto/base/frames.h"
#include "quantd/v1/catalog.pb.h"

namespace quantd::agent {

struct ExitState {
  // True: `code` is the signal; false: it is the exit status.
  bool signalled = false;
  int code = 0;
};

// Thread-safe, but see Spawn.
class RunnerProcess {
 public:
  // The process is killed when the calling THREAD ends: call it from one that
  // lives as long as the runner is wanted.
  static absl::StatusOr<std::unique_ptr<RunnerProcess>> Spawn(
      const std::string& program);
  // Kills what is left of the process group and reaps.
  ~RunnerProcess();
  RunnerProcess(const RunnerProcess&) = delete;
  RunnerProcess& operator=(const RunnerProcess&) = delete;

  base::FrameChannel& channel() { return channel_; }
  // Standard output and standard error, for reading; non-blocking.
  int output_fd() const { return output_fd_; }
  // Becomes readable when the process has ended.
  int pid_fd() const { return pid_fd_; }

  // Sends a signal to the process group; nothing once it was reaped.
  void Signal(int number);
  // Waits for the end; the process is reaped and its group killed then.
  // nullopt: it still runs.
  std::optional<ExitState> AwaitExit(absl::Duration timeout);
  // The largest resident size so far, in bytes; 0 where it is unknown.
  int64_t peak_memory_bytes();
  pid_t pid() const { return pid_; }

 private:
  RunnerProcess(pid_t pid, int pid_fd, int socket_fd, int output_fd);

  const pid_t pid_;
  const int pid_fd_;
  const int output_fd_;
  base::FrameChannel channel_;
  absl::Mutex mu_;
  std::optional<ExitState> exit_ ABSL_GUARDED_BY(mu_);
  int64_t peak_memory_bytes_ ABSL_GUARDED_BY(mu_) = 0;
};

// How often a runner is asked what it can do, where a signal ends it each time.
inline constexpr int kDescribeAttempts = 4;

// Runs `program` --describe and parses what it prints. One that a signal ends
// (the kernel wants memory, an operator kills it) is asked again after a pause
// by `clock`. INTERNAL (RUNNER_DESCRIBE_FAILED) where it ends with an error, or
// not within `timeout`, or by a signal each time.
absl::StatusOr<v1::Catalog> DescribeRunner(const std::string& program,
                                           absl::Duration timeout,
                                           base::Clock& clock);

}  // namespace quantd::agent
