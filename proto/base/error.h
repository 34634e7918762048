// SPDX-License-Identifier: Apache-2.0
// Errors with a documented reason. Every error that can reach a user is made
// here, so that the reason travels with the absl::Status from where the fault
// was found to the RPC edge (google.rpc.ErrorInfo) or to the job's failure.
//
// Reasons are UPPER_SNAKE, at most 63 characters, and explained in
// docs/errors.md. Messages hold no path of the machine and no address.
#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace quantd::base {

using ErrorMetadata = std::map<std::string, std::string>;

// A status that carries `reason` and the dynamic parts of its message.
absl::Status MakeError(absl::StatusCode code, absl::string_view reason,
                       absl::string_view message,
                       const ErrorMetadata& metadata = {});

// The reason of `status`; empty where it was not made by MakeError.
std::string ErrorReason(const absl::Status& status);
ErrorMetadata GetErrorMetadata(const absl::Status& status);

// The same error with "`context`: " before its message; OK stays OK.
absl::Status AddContext(const absl::Status& status, absl::string_view context);

}  // namespace quantd::base
