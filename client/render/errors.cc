// SPDX-License-Identifier: Apache-2.0
#include "client/render/errors.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/spec/violation.h"

namespace quantd::render {
namespace {

std::string Sentence(const google::rpc::BadRequest::FieldViolation& violation) {
  return absl::StrCat(violation.field(), violation.field().empty() ? "" : ": ",
                      violation.description());
}

// The message repeats the violations for clients that show nothing else; here
// they get lines of their own.
std::string Headline(const absl::Status& status,
                     const google::rpc::BadRequest& details) {
  std::string message(status.message());
  if (message.empty()) return absl::StatusCodeToString(status.code());
  if (details.field_violations().empty()) return message;
  const size_t list =
      message.find(absl::StrCat(": ", Sentence(details.field_violations(0))));
  return list == std::string::npos ? message : message.substr(0, list);
}

}  // namespace

void PrintError(const absl::Status& status, absl::string_view hint,
                const Terminal& terminal, std::ostream& err) {
  const google::rpc::BadRequest details = spec::BadRequestOf(status);
  std::string reason = base::ErrorReason(status);
  if (reason.empty()) reason = absl::StatusCodeToString(status.code());
  err << Paint(terminal, Color::kRed, "error:") << " "
      << Printable(Headline(status, details)) << " [" << Printable(reason)
      << "]\n";
  for (const auto& violation : details.field_violations()) {
    err << "  - " << Printable(Sentence(violation)) << "\n";
  }
  if (hint.empty()) return;
  err << Paint(terminal, Color::kCyan, "next:") << " "
      << std::string(hint.data(), hint.size()) << "\n";
}

}  // namespace quantd::render
