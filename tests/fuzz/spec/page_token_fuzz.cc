// SPDX-License-Identifier: Apache-2.0
// Page tokens. The first byte says how many of the rest are the token; what
// follows it are the arguments of the listing.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/string_view.h"
#include "proto/spec/page_token.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  static const auto& tokens =
      *new quantd::spec::PageTokens(std::string(32, 'k'));
  const absl::string_view rest(reinterpret_cast<const char*>(data) + 1,
                               size - 1);
  const absl::string_view token = rest.substr(0, data[0]);
  const absl::string_view arguments = rest.substr(token.size());
  // Whoever has not the key makes no token up, not in any number of tries.
  if (tokens.Open(token, arguments).ok()) std::abort();
  const std::string sealed = tokens.Seal(token, arguments);
  const auto cursor = tokens.Open(sealed, arguments);
  if (!cursor.ok() || *cursor != token) std::abort();
  if (tokens.Open(sealed, std::string(arguments) + "x").ok()) std::abort();
  return 0;
}
