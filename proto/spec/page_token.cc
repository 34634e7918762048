// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/page_token.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "proto/base/error.h"

namespace quantd::spec {
namespace {

constexpr size_t kMacBytes = 16;
constexpr size_t kMaxTokenBytes = 512;

}  // namespace

std::string PageTokens::Mac(absl::string_view cursor,
                            absl::string_view arguments) const {
  // The length keeps (cursor, arguments) pairs apart.
  const std::string text =
      absl::StrCat(cursor.size(), ":", cursor, "|", arguments);
  unsigned char mac[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  HMAC(EVP_sha256(), key_.data(), static_cast<int>(key_.size()),
       reinterpret_cast<const unsigned char*>(text.data()), text.size(), mac,
       &size);
  return std::string(reinterpret_cast<char*>(mac), kMacBytes);
}

std::string PageTokens::Seal(absl::string_view cursor,
                             absl::string_view arguments) const {
  return absl::WebSafeBase64Escape(
      absl::StrCat(Mac(cursor, arguments), cursor));
}

absl::StatusOr<std::string> PageTokens::Open(
    absl::string_view token, absl::string_view arguments) const {
  std::string bytes;
  if (token.size() <= kMaxTokenBytes &&
      absl::WebSafeBase64Unescape(token, &bytes) && bytes.size() >= kMacBytes) {
    const std::string cursor = bytes.substr(kMacBytes);
    const std::string mac = Mac(cursor, arguments);
    if (CRYPTO_memcmp(mac.data(), bytes.data(), kMacBytes) == 0) return cursor;
  }
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "PAGE_TOKEN_INVALID",
      "the page token does not belong to this listing; send the token of the "
      "page before with the same filter, or none to begin again");
}

}  // namespace quantd::spec
