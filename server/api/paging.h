// SPDX-License-Identifier: Apache-2.0
// The rules of list calls (AIP-158).
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "proto/spec/page_token.h"

namespace quantd::api {

inline constexpr int32_t kDefaultPageSize = 50;
inline constexpr int32_t kMaxPageSize = 500;

// 0 is the default, too large is lowered, negative INVALID_ARGUMENT
// (PAGE_SIZE_INVALID).
absl::StatusOr<int32_t> PageSize(int32_t asked);

// Where a page begins: the ordinal to stay below; 0 without a token.
absl::StatusOr<int64_t> PageStart(const spec::PageTokens& tokens,
                                  const std::string& token,
                                  const std::string& arguments);
// Empty where `next_before` is 0.
std::string NextToken(const spec::PageTokens& tokens, int64_t next_before,
                      const std::string& arguments);

}  // namespace quantd::api
