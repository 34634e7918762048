// SPDX-License-Identifier: Apache-2.0
// What an error means for the job: its failure class, from which the server
// decides about a retry. One mapping for the runner and the agent.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "quantd/v1/job.pb.h"

namespace quantd::spec {

inline constexpr char kClassInvalid[] = "INVALID";
inline constexpr char kClassResource[] = "RESOURCE";
inline constexpr char kClassNumeric[] = "NUMERIC";
inline constexpr char kClassTransient[] = "TRANSIENT";
inline constexpr char kClassLost[] = "LOST";
inline constexpr char kClassDrained[] = "DRAINED";
inline constexpr char kClassInternal[] = "INTERNAL";

// The failure that `status`, an error, stands for. Reasons that begin with
// NUMERIC_ are NUMERIC whatever their code; a damaged or missing blob
// of the store (BLOB_DIGEST_MISMATCH, BLOB_NOT_FOUND) is INTERNAL, one that
// went before its step was committed (BLOB_MISSING) TRANSIENT, other damaged
// input INVALID. An error without a reason gets the name of its code as
// one.
v1::Failure FailureFromStatus(const absl::Status& status);

// A failure that never was a status, for example a process that died.
v1::Failure MakeFailure(const std::string& failure_class,
                        const std::string& reason, const std::string& message);

}  // namespace quantd::spec
