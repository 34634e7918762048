// SPDX-License-Identifier: Apache-2.0
// Errors as they travel: google.rpc.Status with ErrorInfo, and BadRequest where
// there is one, in the trailing metadata (AIP-193).
#pragma once

#include <string>

#include "absl/status/status.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"

namespace quantd::api {

// Every error gets a reason: its own, or the name of its code. An INTERNAL
// error without a reason is logged and its text kept from the peer. Errors that
// a later try may mend carry RetryInfo.
grpc::Status ToGrpcStatus(const absl::Status& status);

// "OK", "NOT_FOUND": the label of a metric.
std::string CodeName(grpc::StatusCode code);

}  // namespace quantd::api
