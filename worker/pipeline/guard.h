// SPDX-License-Identifier: Apache-2.0
// The one place in the worker that catches: what LibTorch and the allocator
// throw becomes an absl::Status here.
#pragma once

#include <functional>

#include "absl/status/status.h"

namespace quantd::pipeline {

// Runs `body` and returns its status. Memory that could not be had (of the host
// or of the device) is RESOURCE_EXHAUSTED with reason HOST_OUT_OF_MEMORY or
// DEVICE_OUT_OF_MEMORY; any other exception is INTERNAL with reason
// TENSOR_LIBRARY_ERROR, its backtrace in the log and not in the message.
absl::Status RunGuarded(const std::function<absl::Status()>& body);

}  // namespace quantd::pipeline
