// SPDX-License-Identifier: Apache-2.0
// What to do after an error that does not say it itself.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace quantd::render {

// The address that was called, and the setting it came from.
struct ServerPlace {
  std::string address;
  std::string source;
};

// Empty where the message says enough.
std::string NextStep(const absl::Status& status, const ServerPlace& server);

}  // namespace quantd::render
