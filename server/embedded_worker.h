// SPDX-License-Identifier: Apache-2.0
// One worker process, kept alive beside the server: started again, ever more
// slowly, when it dies, and gone when the server goes.
#pragma once

#include <sys/types.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace quantd::server {

class EmbeddedWorker {
 public:
  // `arguments` begins with the program's path. The child gets a process group
  // of its own and is killed by the kernel when this process dies. `first_wait`
  // is the pause after the first death; see NextWait.
  explicit EmbeddedWorker(std::vector<std::string> arguments,
                          absl::Duration first_wait = absl::Milliseconds(500));
  ~EmbeddedWorker();
  EmbeddedWorker(const EmbeddedWorker&) = delete;
  EmbeddedWorker& operator=(const EmbeddedWorker&) = delete;

  // SIGTERM, which drains it; SIGKILL to its group after `grace`. Blocks until
  // it is reaped.
  void Stop(absl::Duration grace);

 private:
  void Loop();
  // The child; -1 where none could be started.
  pid_t Spawn();

  const std::vector<std::string> arguments_;
  const absl::Duration first_wait_;
  absl::Mutex mu_;
  pid_t child_ ABSL_GUARDED_BY(mu_) = -1;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

// The pause after a worker that lived for `lived` when the one before was
// `previous` (0 before any): twice as long, at most 30 s, and `first` again
// after a life of a minute.
absl::Duration NextWait(absl::Duration previous, absl::Duration lived,
                        absl::Duration first);

// The program `name` in the folder of the running program. NOT_FOUND,
// WORKER_PROGRAM_MISSING.
absl::StatusOr<std::string> ProgramBeside(const std::string& name);

}  // namespace quantd::server
