// SPDX-License-Identifier: Apache-2.0
// The answer of an RPC as an absl::Status that keeps its documented reason.
#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace quantd::agent {

absl::Status FromGrpc(const grpc::Status& status);

// True where the server says that the lease is not the worker's any more.
bool IsLeaseLost(const absl::Status& status);

// True where the same call may succeed later: nobody answered, or the server's
// disk is full, which ends when somebody frees space.
bool IsUnanswered(const absl::Status& status);

// True where the store lacks a blob that the call names.
bool IsBlobMissing(const absl::Status& status);

}  // namespace quantd::agent
