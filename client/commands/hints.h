// SPDX-License-Identifier: Apache-2.0
// What to do after an error that does not say it itself.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "client/commands/settings.h"

namespace quantd::commands {

// Empty where the message says enough.
std::string NextStep(const absl::Status& status, const Settings& settings);

}  // namespace quantd::commands
