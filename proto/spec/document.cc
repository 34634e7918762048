// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/document.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/violation.h"
#include "yaml-cpp/yaml.h"

namespace quantd::spec {
namespace {

using nlohmann::json;

absl::Status Invalid(absl::string_view message) {
  return base::MakeError(absl::StatusCode::kInvalidArgument, "DOCUMENT_INVALID",
                         absl::StrCat("the file ", message));
}

absl::Status RepeatedKey(absl::string_view key) {
  return Invalid(absl::StrCat("has the key \"", Shortened(key), "\" twice"));
}

// Watches a JSON parse for what the library itself lets pass.
struct JsonWatch {
  std::vector<std::set<std::string>> keys;
  absl::Status status;
  int nodes = 0;

  bool operator()(int depth, json::parse_event_t event, json& parsed) {
    if (!status.ok()) return false;
    if (depth > kMaxDocumentDepth) {
      status =
          Invalid(absl::StrCat("is nested deeper than ", kMaxDocumentDepth));
    } else if (++nodes > kMaxDocumentNodes) {
      status = Invalid("has too many values");
    } else if (event == json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == json::parse_event_t::key &&
               !keys.back().insert(parsed.get<std::string>()).second) {
      status = RepeatedKey(parsed.get<std::string>());
    }
    return status.ok();
  }
};

absl::StatusOr<json> ParseJson(absl::string_view text) {
  JsonWatch watch;
  json document = json::parse(
      text.begin(), text.end(),
      [&watch](int depth, json::parse_event_t event, json& parsed) {
        return watch(depth, event, parsed);
      },
      /*allow_exceptions=*/false);
  RETURN_IF_ERROR(watch.status);
  if (document.is_discarded()) return Invalid("is not valid JSON");
  return document;
}

// YAML 1.2 core schema, without octal and without infinities.
json PlainScalar(const std::string& text) {
  if (text.empty() || text == "~" || text == "null") return nullptr;
  if (text == "true" || text == "false") return text == "true";
  int64_t whole;
  if (absl::SimpleAtoi(text, &whole)) return whole;
  uint64_t positive;
  if (absl::SimpleAtoi(text, &positive)) return positive;
  const bool numeric =
      text.find_first_not_of("+-.0123456789eE") == std::string::npos;
  double number;
  if (numeric && absl::SimpleAtod(text, &number)) return number;
  return text;
}

absl::StatusOr<json> FromYaml(const YAML::Node& node, int depth, int* nodes) {
  if (depth > kMaxDocumentDepth) {
    return Invalid(absl::StrCat("is nested deeper than ", kMaxDocumentDepth));
  }
  if (++*nodes > kMaxDocumentNodes) return Invalid("has too many values");
  if (node.IsScalar()) {
    // The tag "!" marks a quoted scalar.
    if (node.Tag() == "!") return json(node.Scalar());
    return PlainScalar(node.Scalar());
  }
  if (node.IsSequence()) {
    json array = json::array();
    for (const YAML::Node& item : node) {
      ASSIGN_OR_RETURN(json value, FromYaml(item, depth + 1, nodes));
      array.push_back(std::move(value));
    }
    return array;
  }
  if (!node.IsMap()) return json(nullptr);
  json object = json::object();
  for (const auto& entry : node) {
    if (!entry.first.IsScalar()) return Invalid("has a key that is no word");
    const std::string key = entry.first.Scalar();
    if (object.contains(key)) return RepeatedKey(key);
    ASSIGN_OR_RETURN(object[key], FromYaml(entry.second, depth + 1, nodes));
  }
  return object;
}

absl::StatusOr<json> ParseYaml(absl::string_view text) {
  int nodes = 0;
  // yaml-cpp reports by exception; none leaves this function.
  try {
    return FromYaml(YAML::Load(std::string(text)), 0, &nodes);
  } catch (const YAML::Exception& e) {
    return Invalid(absl::StrCat("is not valid YAML: line ", e.mark.line + 1,
                                ": ", Shortened(e.msg)));
  }
}

}  // namespace

absl::StatusOr<json> ParseDocument(absl::string_view text) {
  if (text.size() > kMaxDocumentBytes) {
    return Invalid(
        absl::StrCat("is longer than ", kMaxDocumentBytes, " bytes"));
  }
  const absl::string_view body = absl::StripLeadingAsciiWhitespace(text);
  if (!body.empty() && (body[0] == '{' || body[0] == '[')) {
    return ParseJson(body);
  }
  return ParseYaml(text);
}

}  // namespace quantd::spec
