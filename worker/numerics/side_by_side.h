// SPDX-License-Identifier: Apache-2.0
// Independent pieces of work, each on one of LibTorch's threads: for pieces too
// small to keep all of them busy at once.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/status.h"

namespace quantd::numerics {

// Calls `work(i)` once for every i of [0, count), pieces beginning in order and
// as many at once as LibTorch has threads. What a piece would spread over
// threads itself runs on its own thread alone, and sums as it does on one
// thread, however many pieces there are. Returns the error of the first piece
// that has one; those before it have run, no piece begins once an error is
// known. What a piece throws is thrown here, after the last thread has stopped.
// Threads have no gradient mode of the caller's.
absl::Status SideBySide(int64_t count,
                        const std::function<absl::Status(int64_t)>& work);

}  // namespace quantd::numerics
