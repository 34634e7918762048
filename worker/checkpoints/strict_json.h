// SPDX-License-Identifier: Apache-2.0
// JSON from strangers: strict UTF-8, no key twice, bounded depth and size.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::checkpoints {

struct JsonRules {
  // The reason of an error in syntax, for example "CONFIG_JSON".
  absl::string_view syntax_reason;
  // What is read, for messages: "config.json".
  absl::string_view what;
  int max_depth = 16;
  // Objects, arrays, keys and scalars together.
  int64_t max_values = 4'000'000;
};

// INVALID_ARGUMENT: `syntax_reason`, DUPLICATE_KEY, JSON_TOO_DEEP or
// JSON_TOO_LARGE.
absl::StatusOr<nlohmann::json> ParseStrictJson(absl::string_view text,
                                               const JsonRules& rules);

// The object in a file of at most `max_bytes`.
absl::StatusOr<nlohmann::json> ReadStrictJsonObject(const std::string& path,
                                                    int64_t max_bytes,
                                                    const JsonRules& rules);

}  // namespace quantd::checkpoints
