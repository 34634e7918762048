// SPDX-License-Identifier: Apache-2.0
// The RPCs made for one lease, so that all of them end at once when the lease
// is given up, and their repetition while nobody answers.
#pragma once

#include <functional>
#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/client_context.h"

namespace quantd::agent {

// Thread-safe.
class CallGroup {
 public:
  // Ends running calls with CANCELLED and lets no further one begin.
  void CancelAll();
  bool cancelled() const;

  // Calls until the answer is neither UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED
  // (by the server) nor DISK_FULL, with growing pauses of at most 2 s.
  // CANCELLED once CancelAll was called. Only for calls that may be repeated
  // without harm.
  absl::Status Repeat(const std::function<absl::Status()>& call);

 private:
  friend class ScopedCall;

  mutable absl::Mutex mu_;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  std::set<grpc::ClientContext*> running_ ABSL_GUARDED_BY(mu_);
};

// A client context that is in `group` as long as this object lives.
class ScopedCall {
 public:
  ScopedCall(CallGroup& group, grpc::ClientContext& context);
  ~ScopedCall();
  ScopedCall(const ScopedCall&) = delete;
  ScopedCall& operator=(const ScopedCall&) = delete;

 private:
  CallGroup& group_;
  grpc::ClientContext& context_;
};

}  // namespace quantd::agent
