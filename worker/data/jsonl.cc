// SPDX-License-Identifier: Apache-2.0
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "proto/base/status_macros.h"
#include "worker/data/rows.h"

namespace quantd::data {
namespace {

using nlohmann::json;

// Takes the next line off `rest`, without its newline.
absl::string_view TakeLine(absl::string_view* rest) {
  const size_t end = rest->find('\n');
  const absl::string_view line = rest->substr(0, end);
  rest->remove_prefix(end == absl::string_view::npos ? rest->size() : end + 1);
  return line;
}

bool IsBlank(absl::string_view line) {
  return absl::StripAsciiWhitespace(line).empty();
}

json Parse(absl::string_view line) {
  return json::parse(line.begin(), line.end(), nullptr,
                     /*allow_exceptions=*/false);
}

absl::StatusOr<std::vector<int64_t>> ReadIds(const json& value, int64_t row) {
  if (!value.is_array() || value.empty()) {
    return DataError("DATA_TOKEN_INVALID", row,
                     "input_ids is not a list of at least one token id");
  }
  std::vector<int64_t> ids;
  ids.reserve(value.size());
  for (const json& id : value) {
    if (!id.is_number_unsigned() ||
        id.get<uint64_t>() > std::numeric_limits<int32_t>::max()) {
      return InvalidId(row, ids.size(), id.dump());
    }
    ids.push_back(id.get<int64_t>());
  }
  return ids;
}

absl::StatusOr<Document> ReadRow(absl::string_view line, int64_t row) {
  if (static_cast<int64_t>(line.size()) > kMaxLineBytes) {
    return DataError(
        "DATA_TOO_LARGE", row,
        absl::StrCat("the line has ", line.size(), " bytes; at most ",
                     kMaxLineBytes, " are read"));
  }
  const int64_t invalid = FirstInvalidUtf8(line);
  if (invalid >= 0) {
    return DataError("DATA_NOT_UTF8", row,
                     absl::StrCat("byte ", invalid, " is not UTF-8"));
  }
  const json object = Parse(line);
  if (!object.is_object()) {
    return DataError("DATA_ROW_INVALID", row, "the line is no JSON object");
  }
  Document document;
  document.row = row;
  const auto ids = object.find("input_ids");
  if (ids != object.end()) {
    ASSIGN_OR_RETURN(document.input_ids, ReadIds(*ids, row));
    return document;
  }
  const auto text = object.find("text");
  if (text == object.end() || !text->is_string()) {
    return DataError("DATA_FIELD_MISSING", row,
                     "neither \"text\" (a string) nor \"input_ids\" (a list) "
                     "is there");
  }
  document.text = text->get<std::string>();
  return document;
}

}  // namespace

bool IsJsonLines(absl::string_view bytes) {
  absl::string_view rest = bytes;
  while (!rest.empty()) {
    const absl::string_view line = TakeLine(&rest);
    if (IsBlank(line)) continue;
    if (absl::StripLeadingAsciiWhitespace(line).front() != '{') return false;
    return static_cast<int64_t>(line.size()) > kMaxLineBytes ||
           Parse(line).is_object();
  }
  return false;
}

absl::StatusOr<std::vector<Document>> ReadJsonLines(absl::string_view bytes) {
  std::vector<Document> documents;
  int64_t row = 0;
  for (absl::string_view rest = bytes; !rest.empty();) {
    const absl::string_view line = TakeLine(&rest);
    ++row;
    if (IsBlank(line)) continue;
    if (static_cast<int64_t>(documents.size()) == kMaxRows) {
      return DataError("DATA_TOO_LARGE", row,
                       absl::StrCat("at most ", kMaxRows, " rows are read"));
    }
    ASSIGN_OR_RETURN(Document document, ReadRow(line, row));
    documents.push_back(std::move(document));
  }
  return documents;
}

}  // namespace quantd::data
