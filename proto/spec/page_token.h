// SPDX-License-Identifier: Apache-2.0
// Opaque tokens of list pages: where the next page begins, sealed with an HMAC
// over it and over the other arguments of the request, so that a token neither
// can be made up nor serves another listing. It grants no rights.
#pragma once

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::spec {

// Immutable, thread-safe. `key` is secret, at least 16 random bytes, and lives
// as long as tokens shall.
class PageTokens {
 public:
  explicit PageTokens(std::string key) : key_(std::move(key)) {}

  // `arguments` is everything but the page size that shapes the listing.
  std::string Seal(absl::string_view cursor, absl::string_view arguments) const;
  // The cursor of `token`. INVALID_ARGUMENT, PAGE_TOKEN_INVALID, for a token
  // of other arguments, of another server, or of nobody.
  absl::StatusOr<std::string> Open(absl::string_view token,
                                   absl::string_view arguments) const;

 private:
  std::string Mac(absl::string_view cursor, absl::string_view arguments) const;

  const std::string key_;
};

}  // namespace quantd::spec
