// SPDX-License-Identifier: Apache-2.0
// What must be equal for the work of one process to be continued by another:
// then its bytes are those that this process would have made.
#pragma once

#include <c10/core/Device.h>

#include <string>

#include "absl/status/statusor.h"

namespace quantd::pipeline {

struct FingerprintParts {
  // Of the source's weights and config.
  std::string weights_digest;
  // Of the data set, the tokenizer and the sampling rule; empty where no tokens
  // are read.
  std::string tokens_digest;
  std::string recipe_digest;
};

// SHA-256 over the parts, the code version and the device class.
std::string Fingerprint(const FingerprintParts& parts, at::Device device);

// SHA-256 of the running executable; computed once. "unknown" where it cannot
// be read.
const std::string& CodeVersion();

// The device as far as it decides rounding: vector width and, since libraries
// split sums by it, the number of threads. For example "cpu/AVX2/2"; every GPU
// is of class "cuda".
std::string DeviceClass(at::Device device);

// "cpu", "cuda:N" or nothing, which is the CPU. INVALID_ARGUMENT,
// DEVICE_UNKNOWN.
absl::StatusOr<at::Device> ParseDevice(const std::string& name);

}  // namespace quantd::pipeline
