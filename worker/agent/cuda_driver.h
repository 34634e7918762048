// SPDX-License-Identifier: Apache-2.0
// The few questions an agent has for the CUDA driver, asked through dlopen and
// without a context, so that the agent takes no memory of the device.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace quantd::agent {

// Thread-safe after Open.
class CudaDriver {
 public:
  // NOT_FOUND where there is no driver, or no device that it will serve.
  static absl::StatusOr<std::unique_ptr<CudaDriver>> Open();
  virtual ~CudaDriver() = default;

  virtual int num_devices() const = 0;

  struct Device {
    std::string name;
    int64_t total_memory_bytes = 0;
    // The total where the management library cannot tell.
    int64_t free_memory_bytes = 0;
  };
  // `index` is below num_devices.
  virtual Device Read(int index) const = 0;
};

}  // namespace quantd::agent
