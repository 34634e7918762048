// SPDX-License-Identifier: Apache-2.0
#include "client/rpc/backoff.h"

#include <algorithm>

namespace quantd::rpc {

Backoff::Backoff(const BackoffOptions& options)
    : options_(options),
      bound_(options.initial_delay),
      random_(std::random_device{}()) {}

absl::Duration Backoff::Next() {
  std::uniform_real_distribution<double> fraction(0.5, 1.0);
  const absl::Duration delay = bound_ * fraction(random_);
  bound_ = std::min(bound_ * 2, options_.max_delay);
  return delay;
}

}  // namespace quantd::rpc
