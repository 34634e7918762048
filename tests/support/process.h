// SPDX-License-Identifier: Apache-2.0
// A real child process of a test: started, killed, waited for.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace quantd::support {

// Killed and reaped when the object goes. Used by one thread.
class Process {
 public:
  // Starts argv[0] in a process group of its own. Standard error and output go
  // to `log_file`, or are inherited where it is empty.
  Process(const std::vector<std::string>& argv, const std::string& log_file);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  bool running();
  void Signal(int signal);
  // Kills with SIGKILL and reaps; the children of the process stay.
  void Kill();
  // Waits for the end: the exit code, 128 + signal, or -1 at the deadline.
  int Wait(absl::Duration timeout);

 private:
  pid_t pid_ = -1;
  int exit_code_ = -1;
};

struct CommandResult {
  int exit_code = -1;
  std::string output;
};

// Runs argv to its end and returns its standard output and error together.
CommandResult RunCommand(const std::vector<std::string>& argv);

// Polls `condition` until it holds or `timeout` has passed.
template <typename Condition>
bool WaitFor(absl::Duration timeout, Condition condition) {
  const absl::Time deadline = absl::Now() + timeout;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return true;
}

// build/bin/<name>; the folder comes from QUANTD_BIN.
std::string Program(const std::string& name);

}  // namespace quantd::support
