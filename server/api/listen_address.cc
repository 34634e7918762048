// SPDX-License-Identifier: Apache-2.0
#include "server/api/listen_address.h"

#include <arpa/inet.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/base/error.h"

namespace quantd::api {
namespace {

bool IsLoopback(const std::string& host) {
  if (host == "localhost") return true;
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) {
    return (ntohl(v4.s_addr) >> 24) == 127;
  }
  in6_addr v6;
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 &&
         IN6_IS_ADDR_LOOPBACK(&v6);
}

}  // namespace

absl::StatusOr<ListenAddress> ParseLoopback(absl::string_view text,
                                            absl::string_view flag) {
  const size_t colon = text.rfind(':');
  ListenAddress address;
  absl::string_view host = text.substr(0, colon);
  if (colon == absl::string_view::npos || host.empty() ||
      !absl::SimpleAtoi(text.substr(colon + 1), &address.port) ||
      address.port < 0 || address.port > 65535) {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "LISTEN_INVALID",
        absl::StrCat(flag,
                     " is not written as HOST:PORT, for example "
                     "127.0.0.1:7433; port 0 means any free one"));
  }
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  address.host = std::string(host);
  if (IsLoopback(address.host)) return address;
  return base::MakeError(
      absl::StatusCode::kFailedPrecondition, "LISTEN_NOT_LOOPBACK",
      absl::StrCat(flag,
                   " is not a loopback address; this server has no TLS and no "
                   "tokens, so whoever reached it could run jobs. Listen on "
                   "127.0.0.1 and reach it through an SSH tunnel"));
}

std::string AddressText(const std::string& host, int port) {
  if (absl::StrContains(host, ":")) return absl::StrCat("[", host, "]:", port);
  return absl::StrCat(host, ":", port);
}

}  // namespace quantd::api
