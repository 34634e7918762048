// SPDX-License-Identifier: Apache-2.0
#include "worker/models/config.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/base/error.h"

namespace quantd::models {
namespace {

using Json = nlohmann::json;

const Json& Null() {
  static const auto& null = *new Json();
  return null;
}

}  // namespace

const Json& ConfigReader::Get(absl::string_view key) const {
  if (!object_.is_object()) return Null();
  const auto found = object_.find(std::string(key));
  return found == object_.end() ? Null() : *found;
}

bool ConfigReader::Has(absl::string_view key) const {
  return !Get(key).is_null();
}

bool ConfigReader::IsNull(absl::string_view key) const {
  return object_.is_object() && object_.contains(std::string(key)) && !Has(key);
}

int64_t ConfigReader::Int(absl::string_view key, int64_t otherwise,
                          Range range) {
  const Json& value = Get(key);
  if (value.is_null()) return otherwise;
  // Compared as doubles, so that numbers beyond 63 bits are out of range too.
  const double number = value.is_number_integer() ? value.get<double>() : -1;
  if (value.is_number_integer() && number >= range.min && number <= range.max) {
    return value.get<int64_t>();
  }
  Problem(absl::StrCat("\"", key, "\" must be an integer from ", range.min,
                       " to ", range.max));
  return otherwise;
}

double ConfigReader::Number(absl::string_view key, double otherwise,
                            Range range) {
  const Json& value = Get(key);
  if (value.is_null()) return otherwise;
  const double number = value.is_number() ? value.get<double>() : -1;
  if (value.is_number() && number >= range.min && number <= range.max) {
    return number;
  }
  Problem(absl::StrCat("\"", key, "\" must be a number from ", range.min,
                       " to ", range.max));
  return otherwise;
}

bool ConfigReader::Bool(absl::string_view key, bool otherwise) {
  const Json& value = Get(key);
  if (value.is_null()) return otherwise;
  if (value.is_boolean()) return value.get<bool>();
  Problem(absl::StrCat("\"", key, "\" must be true or false"));
  return otherwise;
}

std::string ConfigReader::Text(absl::string_view key,
                               absl::string_view otherwise) {
  const Json& value = Get(key);
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_null()) {
    Problem(absl::StrCat("\"", key, "\" must be a string"));
  }
  return std::string(otherwise);
}

const Json& ConfigReader::Object(absl::string_view key) {
  const Json& value = Get(key);
  if (value.is_object() || value.is_null()) return value;
  Problem(absl::StrCat("\"", key, "\" must be an object"));
  return Null();
}

const Json& ConfigReader::Array(absl::string_view key) {
  const Json& value = Get(key);
  if (value.is_array() || value.is_null()) return value;
  Problem(absl::StrCat("\"", key, "\" must be an array"));
  return Null();
}

absl::Status ConfigReader::status() const {
  if (problems_.empty()) return absl::OkStatus();
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "CONFIG_VALUE",
      absl::StrCat("config.json: ", absl::StrJoin(problems_, "; ")));
}

}  // namespace quantd::models
