// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/failure.h"

#include "absl/strings/match.h"
#include "proto/base/error.h"
#include "proto/base/utf8.h"

namespace quantd::spec {
namespace {

// An exhaustive switch: a code that somebody adds must be thought about.
const char* ClassOfCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kDataLoss:
      return kClassInvalid;
    case absl::StatusCode::kResourceExhausted:
      return kClassResource;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kAborted:
      return kClassTransient;
    case absl::StatusCode::kCancelled:
      return kClassDrained;
    case absl::StatusCode::kOk:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::
        kDoNotUseReservedForFutureExpansionUseDefaultInSwitchInstead_:
      return kClassInternal;
  }
  return kClassInternal;
}

const char* ClassOf(const absl::Status& status, const std::string& reason) {
  if (absl::StartsWith(reason, "NUMERIC_")) return kClassNumeric;
  if (reason == "BLOB_DIGEST_MISMATCH" || reason == "BLOB_NOT_FOUND") {
    return kClassInternal;
  }
  // The work can be done again, which writes the blob again.
  if (reason == "BLOB_MISSING") return kClassTransient;
  return ClassOfCode(status.code());
}

}  // namespace

v1::Failure MakeFailure(const std::string& failure_class,
                        const std::string& reason, const std::string& message) {
  v1::Failure failure;
  failure.set_failure_class(failure_class);
  failure.set_reason(reason);
  failure.set_message(base::ToUtf8(message));
  return failure;
}

v1::Failure FailureFromStatus(const absl::Status& status) {
  const std::string reason = base::ErrorReason(status);
  v1::Failure failure = MakeFailure(
      ClassOf(status, reason),
      reason.empty() ? absl::StatusCodeToString(status.code()) : reason,
      std::string(status.message()));
  for (const auto& [key, value] : base::GetErrorMetadata(status)) {
    (*failure.mutable_metadata())[key] = base::ToUtf8(value);
  }
  return failure;
}

}  // namespace quantd::spec
