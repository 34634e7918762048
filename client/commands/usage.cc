// SPDX-License-Identifier: Apache-2.0
#include "client/commands/usage.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/base/error.h"
#include "proto/spec/nearest.h"

namespace quantd::commands {

absl::Status UsageError(absl::string_view message) {
  return base::MakeError(absl::StatusCode::kInvalidArgument, "USAGE_INVALID",
                         message);
}

absl::Status UnknownWord(absl::string_view kind, absl::string_view word,
                         const std::vector<std::string>& known) {
  const std::string nearest =
      absl::StrJoin(spec::NearestNames(word, known), ", ");
  return UsageError(absl::StrCat(
      "no ", kind, " is called \"", word, "\"",
      nearest.empty() ? "" : absl::StrCat("; the nearest are ", nearest)));
}

}  // namespace quantd::commands
