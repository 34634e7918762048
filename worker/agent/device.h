// SPDX-License-Identifier: Apache-2.0
// The device that this worker computes on. The CUDA driver is looked for at run
// time, so that one program serves machines with and without it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "quantd/v1/worker.pb.h"

namespace quantd::agent {

// Thread-safe.
class DeviceProbe {
 public:
  virtual ~DeviceProbe() = default;
  // With the memory that is free now.
  virtual v1::Device Read() const = 0;
};

// `choice` is "cpu", "cuda:N" or "auto": the first GPU where there is one, else
// the CPU, which one line of the log then says. INVALID_ARGUMENT
// (DEVICE_UNKNOWN) for other words, FAILED_PRECONDITION (DEVICE_NOT_FOUND) for
// a GPU that is not there.
absl::StatusOr<std::unique_ptr<DeviceProbe>> OpenDevice(
    const std::string& choice);

// Of the machine.
int64_t HostMemoryBytes();

}  // namespace quantd::agent
