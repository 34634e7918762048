// SPDX-License-Identifier: Apache-2.0
#include "server/api/paging.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::api {

absl::StatusOr<int32_t> PageSize(int32_t asked) {
  if (asked < 0) {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "PAGE_SIZE_INVALID",
        absl::StrCat("a page of ", asked, " entries cannot be; ask for 1 to ",
                     kMaxPageSize, " or for 0, the default"),
        {{"page_size", absl::StrCat(asked)}});
  }
  return asked == 0 ? kDefaultPageSize : std::min(asked, kMaxPageSize);
}

absl::StatusOr<int64_t> PageStart(const spec::PageTokens& tokens,
                                  const std::string& token,
                                  const std::string& arguments) {
  if (token.empty()) return 0;
  ASSIGN_OR_RETURN(const std::string cursor, tokens.Open(token, arguments));
  int64_t before = 0;
  if (!absl::SimpleAtoi(cursor, &before)) {
    return absl::InternalError("a sealed cursor is no number");
  }
  return before;
}

std::string NextToken(const spec::PageTokens& tokens, int64_t next_before,
                      const std::string& arguments) {
  if (next_before == 0) return "";
  return tokens.Seal(absl::StrCat(next_before), arguments);
}

}  // namespace quantd::api
