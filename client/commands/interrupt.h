// SPDX-License-Identifier: Apache-2.0
// Ctrl-C: ends the program at once, after what a command wants said or undone.
#pragma once

#include <functional>
#include <list>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace quantd::commands {

// Thread-safe.
class Interrupt {
 public:
  // `exit_now` gets kExitInterrupted; in a program it does not return.
  explicit Interrupt(std::function<void(int)> exit_now)
      : exit_now_(std::move(exit_now)) {}

  // Blocks SIGINT and SIGTERM for this thread and all it starts from now on;
  // one thread of its own waits for them and calls Trigger. Call it once, first
  // in main, on an object that lives to the end.
  void WatchSignals();

  // Runs the actions, newest first, then exit_now.
  void Trigger();

  // An action that counts while this object lives. It runs on another thread.
  class Scope {
   public:
    Scope(Interrupt& interrupt, std::function<void()> action);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Interrupt& interrupt_;
    std::list<std::function<void()>>::iterator position_;
  };

 private:
  const std::function<void(int)> exit_now_;
  absl::Mutex mu_;
  std::list<std::function<void()>> actions_ ABSL_GUARDED_BY(mu_);
};

}  // namespace quantd::commands
