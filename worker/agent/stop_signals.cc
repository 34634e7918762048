// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/stop_signals.h"

#include <signal.h>

#include <thread>

namespace quantd::agent {

void OnStopSignals(std::function<void()> on_signal) {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, number);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  // Lives as long as the process: there is no end of signals to wait for.
  std::thread([set, on_signal = std::move(on_signal)] {
    int number = 0;
    while (sigwait(&set, &number) == 0) on_signal();
  }).detach();
}

}  // namespace quantd::agent
