// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/call_group.h"

#include <algorithm>

#include "absl/time/time.h"
#include "worker/agent/rpc_status.h"

namespace quantd::agent {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(100);
constexpr absl::Duration kLongestPause = absl::Seconds(2);

}  // namespace

void CallGroup::CancelAll() {
  absl::MutexLock lock(&mu_);
  cancelled_ = true;
  for (grpc::ClientContext* context : running_) context->TryCancel();
}

bool CallGroup::cancelled() const {
  absl::MutexLock lock(&mu_);
  return cancelled_;
}

absl::Status CallGroup::Repeat(const std::function<absl::Status()>& call) {
  absl::Duration pause = kFirstPause;
  for (;;) {
    if (cancelled()) return absl::CancelledError("the lease was given up");
    const absl::Status status = call();
    // CANCELLED without our doing: a server that stops cuts the calls it has.
    if (!IsUnanswered(status) && !absl::IsCancelled(status)) return status;
    absl::MutexLock lock(&mu_);
    mu_.AwaitWithTimeout(absl::Condition(&cancelled_), pause);
    pause = std::min(2 * pause, kLongestPause);
  }
}

ScopedCall::ScopedCall(CallGroup& group, grpc::ClientContext& context)
    : group_(group), context_(context) {
  absl::MutexLock lock(&group_.mu_);
  group_.running_.insert(&context_);
  if (group_.cancelled_) context_.TryCancel();
}

ScopedCall::~ScopedCall() {
  absl::MutexLock lock(&group_.mu_);
  group_.running_.erase(&context_);
}

}  // namespace quantd::agent
