// SPDX-License-Identifier: Apache-2.0
// JSON or YAML text from a stranger, as one bounded tree.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace quantd::spec {

inline constexpr size_t kMaxDocumentBytes = 1 << 20;
inline constexpr int kMaxDocumentDepth = 16;
inline constexpr int kMaxDocumentNodes = 100'000;

// Text that begins with `{` or `[` is JSON, other text YAML, whose plain
// scalars become booleans, numbers or null where they look like it and whose
// quoted ones stay text. INVALID_ARGUMENT, DOCUMENT_INVALID: syntax, a repeated
// key, or a limit of above. Aliases count as often as they are used.
absl::StatusOr<nlohmann::json> ParseDocument(absl::string_view text);

}  // namespace quantd::spec
