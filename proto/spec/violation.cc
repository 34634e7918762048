// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/violation.h"

#include <algorithm>

#include "absl/strings/cord.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "proto/base/error.h"

namespace quantd::spec {
namespace {

constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";
constexpr size_t kMaxValueBytes = 80;
constexpr size_t kMaxMessageBytes = 1024;

// The sentence without the field.
std::string Clause(const Violation& violation) {
  std::string text;
  if (!violation.value.empty()) {
    absl::StrAppend(&text, "\"", violation.value, "\" ");
  }
  absl::StrAppend(&text, violation.description);
  if (!violation.suggestion.empty()) {
    absl::StrAppend(&text, "; ", violation.suggestion);
  }
  return text;
}

}  // namespace

std::string Shortened(absl::string_view text) {
  const bool cut = text.size() > kMaxValueBytes;
  std::string escaped =
      absl::CHexEscape(cut ? text.substr(0, kMaxValueBytes - 3) : text);
  if (escaped.size() > kMaxValueBytes) escaped.resize(kMaxValueBytes - 3);
  if (cut || escaped.size() == kMaxValueBytes - 3) escaped += "...";
  return escaped;
}

std::string ToSentence(const Violation& violation) {
  return absl::StrCat(violation.field, ": ", Clause(violation));
}

google::rpc::BadRequest ToBadRequest(const std::vector<Violation>& violations) {
  google::rpc::BadRequest result;
  for (const Violation& violation : violations) {
    if (result.field_violations_size() == kMaxReportedViolations) break;
    auto* detail = result.add_field_violations();
    detail->set_field(violation.field);
    detail->set_reason(violation.reason);
    detail->set_description(Clause(violation));
    if (result.ByteSizeLong() > kMaxReportedBytes) {
      result.mutable_field_violations()->RemoveLast();
      break;
    }
  }
  return result;
}

absl::Status ToStatus(const std::vector<Violation>& violations,
                      absl::string_view what, absl::string_view reason) {
  if (violations.empty()) return absl::OkStatus();
  std::string message =
      absl::StrCat(what, " has ", violations.size(),
                   violations.size() == 1 ? " problem" : " problems");
  size_t shown = 0;
  for (const Violation& violation : violations) {
    const std::string sentence = ToSentence(violation);
    if (message.size() + sentence.size() > kMaxMessageBytes && shown > 0) break;
    absl::StrAppend(&message, shown == 0 ? ": " : "; ", sentence);
    ++shown;
  }
  if (shown < violations.size()) {
    absl::StrAppend(&message, "; and ", violations.size() - shown, " more");
  }
  absl::Status status =
      base::MakeError(absl::StatusCode::kInvalidArgument, reason, message,
                      {{"problems", std::to_string(violations.size())}});
  status.SetPayload(kBadRequestUrl,
                    absl::Cord(ToBadRequest(violations).SerializeAsString()));
  return status;
}

google::rpc::BadRequest BadRequestOf(const absl::Status& status) {
  google::rpc::BadRequest result;
  if (auto payload = status.GetPayload(kBadRequestUrl)) {
    result.ParseFromString(std::string(*payload));
  }
  return result;
}

}  // namespace quantd::spec
