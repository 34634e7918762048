// SPDX-License-Identifier: Apache-2.0
#include "client/commands/interrupt.h"

#include <signal.h>

#include <thread>
#include <utility>

#include "client/commands/exit_codes.h"

namespace quantd::commands {

void Interrupt::WatchSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([this, signals] {
    int signal = 0;
    sigwait(&signals, &signal);
    Trigger();
  }).detach();
}

void Interrupt::Trigger() {
  absl::MutexLock lock(&mu_);
  for (auto action = actions_.rbegin(); action != actions_.rend(); ++action) {
    (*action)();
  }
  exit_now_(kExitInterrupted);
}

Interrupt::Scope::Scope(Interrupt& interrupt, std::function<void()> action)
    : interrupt_(interrupt) {
  absl::MutexLock lock(&interrupt_.mu_);
  position_ =
      interrupt_.actions_.insert(interrupt_.actions_.end(), std::move(action));
}

Interrupt::Scope::~Scope() {
  absl::MutexLock lock(&interrupt_.mu_);
  interrupt_.actions_.erase(position_);
}

}  // namespace quantd::commands
