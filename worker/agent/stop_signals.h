// SPDX-License-Identifier: Apache-2.0
// SIGTERM, SIGINT and SIGHUP as calls on an ordinary thread.
#pragma once

#include <functional>

namespace quantd::agent {

// Blocks the signals in the calling thread and all that it starts later, and
// calls `on_signal` on a thread of its own for each that comes. Call it once,
// first in main.
void OnStopSignals(std::function<void()> on_signal);

}  // namespace quantd::agent
