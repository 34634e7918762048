// SPDX-License-Identifier: Apache-2.0
// From what gRPC reports to the status the rest of the client speaks.
#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace quantd::rpc {

// Keeps the code and the message; the details of grpc-status-details-bin
// (ErrorInfo, BadRequest, RetryInfo) become payloads by their type URL.
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace quantd::rpc
