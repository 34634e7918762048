// SPDX-License-Identifier: Apache-2.0
// Problems of a request, gathered so that a user sees all of them at once.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "google/rpc/error_details.pb.h"

namespace quantd::spec {

// One problem of one field.
struct Violation {
  // Where, for example "overrides[2].wq".
  std::string field;
  // What was given, shortened and escaped for printing.
  std::string value;
  // UPPER_SNAKE, explained in docs/errors/api.md.
  std::string reason;
  // What is wrong, a clause without a full stop.
  std::string description;
  // What would be right; may be empty.
  std::string suggestion;
};

// The limits of what one error carries: gRPC sends it in trailing metadata,
// which peers bound to 8 KiB.
inline constexpr int kMaxReportedViolations = 32;
inline constexpr int kMaxReportedBytes = 4 * 1024;

// `text` fit for printing: escaped, at most 80 bytes.
std::string Shortened(absl::string_view text);

// "<field>: <value> <description>; <suggestion>".
std::string ToSentence(const Violation& violation);

// The detail of at most kMaxReportedViolations problems.
google::rpc::BadRequest ToBadRequest(const std::vector<Violation>& violations);

// OK where there are none; else INVALID_ARGUMENT with `reason` (ErrorInfo), the
// BadRequest of above and a message that counts the problems and lists them.
// `what` is the subject of the message, for example "the recipe".
absl::Status ToStatus(const std::vector<Violation>& violations,
                      absl::string_view what = "the job",
                      absl::string_view reason = "RECIPE_INVALID");

// The BadRequest that ToStatus put into `status`; empty where there is none.
google::rpc::BadRequest BadRequestOf(const absl::Status& status);

}  // namespace quantd::spec
