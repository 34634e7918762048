// SPDX-License-Identifier: Apache-2.0
// The readers behind ReadCorpus. Each gets a whole file's bytes and checks
// every row of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/data/documents.h"

namespace quantd::data {

// Bounds on what a file may ask for.
inline constexpr int64_t kMaxFileBytes = int64_t{1} << 30;
inline constexpr int64_t kMaxRows = int64_t{1} << 23;
inline constexpr int64_t kMaxLineBytes = int64_t{64} << 20;

bool IsParquet(absl::string_view bytes);
// True where the first line that is not blank is a JSON object.
bool IsJsonLines(absl::string_view bytes);

absl::StatusOr<std::vector<Document>> ReadJsonLines(absl::string_view bytes);
absl::StatusOr<std::vector<Document>> ReadParquet(const std::string& bytes);

// INVALID_ARGUMENT with `reason`; `row` counts from 1, 0 for the whole file,
// whose name ReadCorpus adds.
absl::Status DataError(absl::string_view reason, int64_t row,
                       absl::string_view what);

// DATA_TOKEN_INVALID: input_ids[index] of the row is `value`, at most the first
// bytes of which are shown.
absl::Status InvalidId(int64_t row, size_t index, absl::string_view value);

// The offset of the first byte that is not UTF-8 (RFC 3629); -1 where there is
// none.
int64_t FirstInvalidUtf8(absl::string_view text);

}  // namespace quantd::data
