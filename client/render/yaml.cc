// SPDX-License-Identifier: Apache-2.0
// YAML 1.2 from JSON: block collections, and every string that could be taken
// for another type, or for punctuation, as a JSON string, which YAML includes.
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/render/json.h"

namespace quantd::render {
namespace {

bool IsPlain(const std::string& text) {
  static const auto* const kReserved =
      new std::set<std::string>{"true", "false", "null", "yes", "no", "on",
                                "off",  "y",     "n",    "nan", "inf"};
  if (text.empty() || !(absl::ascii_isalpha(text[0]) || text[0] == '/')) {
    return false;
  }
  for (const char c : text) {
    const bool safe = absl::ascii_isalnum(c) || c == '_' || c == '-' ||
                      c == '.' || c == '/' || c == '+';
    if (!safe) return false;
  }
  return !kReserved->contains(absl::AsciiStrToLower(text));
}

std::string Scalar(const Json& json) {
  if (json.is_string() && IsPlain(json.get_ref<const std::string&>())) {
    return json.get<std::string>();
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void Append(const Json& json, const std::string& indent, bool in_list,
            std::string* out);

// What follows "key:" or "-".
void AppendChild(const Json& json, const std::string& indent, bool in_list,
                 std::string* out) {
  if (json.is_structured() && !json.empty()) {
    if (!in_list) absl::StrAppend(out, "\n");
    Append(json, indent, in_list, out);
  } else {
    absl::StrAppend(out, in_list ? "" : " ", Scalar(json), "\n");
  }
}

// `in_list`: the first line goes on after "- ".
void Append(const Json& json, const std::string& indent, bool in_list,
            std::string* out) {
  bool first = in_list;
  if (json.is_array()) {
    for (const Json& item : json) {
      absl::StrAppend(out, first ? "" : indent, "- ");
      AppendChild(item, indent + "  ", true, out);
      first = false;
    }
    return;
  }
  for (const auto& [key, value] : json.items()) {
    absl::StrAppend(out, first ? "" : indent, Scalar(Json(key)), ":");
    AppendChild(value, indent + "  ", false, out);
    first = false;
  }
}

}  // namespace

std::string ToYaml(const Json& json) {
  if (!json.is_structured() || json.empty()) return Scalar(json) + "\n";
  std::string result;
  Append(json, "", false, &result);
  return result;
}

}  // namespace quantd::render
