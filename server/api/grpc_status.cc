// SPDX-License-Identifier: Apache-2.0
#include "server/api/grpc_status.h"

#include "google/rpc/error_details.pb.h"
#include "proto/base/error.h"
#include "proto/spec/violation.h"
#include "spdlog/spdlog.h"

namespace quantd::api {
namespace {

constexpr size_t kMaxMessageBytes = 1536;
constexpr int kRetrySeconds = 1;

bool WorthRetrying(absl::StatusCode code) {
  return code == absl::StatusCode::kUnavailable ||
         code == absl::StatusCode::kResourceExhausted;
}

google::rpc::ErrorInfo InfoOf(const absl::Status& status) {
  google::rpc::ErrorInfo info;
  info.set_domain("quantd");
  info.set_reason(base::ErrorReason(status));
  if (info.reason().empty()) {
    info.set_reason(absl::StatusCodeToString(status.code()));
  }
  for (const auto& [key, value] : base::GetErrorMetadata(status)) {
    (*info.mutable_metadata())[key] = value.substr(0, kMaxMessageBytes / 8);
  }
  return info;
}

}  // namespace

std::string CodeName(grpc::StatusCode code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string message(status.message().substr(0, kMaxMessageBytes));
  if (status.code() == absl::StatusCode::kInternal &&
      base::ErrorReason(status).empty()) {
    spdlog::error("internal error: {}", message);
    message = "an internal error; the server's log has the details";
  }
  google::rpc::Status detail;
  detail.set_code(static_cast<int>(status.code()));
  detail.set_message(message);
  detail.add_details()->PackFrom(InfoOf(status));
  const google::rpc::BadRequest bad_request = spec::BadRequestOf(status);
  if (bad_request.field_violations_size() > 0) {
    detail.add_details()->PackFrom(bad_request);
  }
  if (WorthRetrying(status.code())) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(kRetrySeconds);
    detail.add_details()->PackFrom(retry);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message,
                      detail.SerializeAsString());
}

}  // namespace quantd::api
