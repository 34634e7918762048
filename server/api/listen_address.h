// SPDX-License-Identifier: Apache-2.0
// HOST:PORT as people write it. This server has no TLS and no tokens, so only
// loopback addresses are taken.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::api {

struct ListenAddress {
  // Without brackets.
  std::string host;
  int port = 0;
};

// `flag` names the setting in errors. INVALID_ARGUMENT, LISTEN_INVALID;
// FAILED_PRECONDITION, LISTEN_NOT_LOOPBACK.
absl::StatusOr<ListenAddress> ParseLoopback(absl::string_view text,
                                            absl::string_view flag);

// "host:port", with brackets around an IPv6 host.
std::string AddressText(const std::string& host, int port);

}  // namespace quantd::api
