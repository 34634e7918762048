// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/rpc_status.h"

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "proto/base/error.h"

namespace quantd::agent {

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  // gRPC and absl number the canonical codes alike.
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) {
    return absl::Status(code, status.error_message());
  }
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::ErrorInfo info;
    if (!detail.UnpackTo(&info)) continue;
    return base::MakeError(
        code, info.reason(), status.error_message(),
        base::ErrorMetadata(info.metadata().begin(), info.metadata().end()));
  }
  return absl::Status(code, status.error_message());
}

bool IsLeaseLost(const absl::Status& status) {
  return base::ErrorReason(status) == "LEASE_LOST";
}

bool IsUnanswered(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         base::ErrorReason(status) == "DISK_FULL";
}

bool IsBlobMissing(const absl::Status& status) {
  return base::ErrorReason(status) == "BLOB_MISSING";
}

}  // namespace quantd::agent
