// SPDX-License-Identifier: Apache-2.0
// Mistakes on the command line: INVALID_ARGUMENT, USAGE_INVALID, exit code 2.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace quantd::commands {

absl::Status UsageError(absl::string_view message);

// "no <kind> is called "<word>"; did you mean ...?"
absl::Status UnknownWord(absl::string_view kind, absl::string_view word,
                         const std::vector<std::string>& known);

}  // namespace quantd::commands
