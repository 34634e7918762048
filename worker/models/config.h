// SPDX-License-Identifier: Apache-2.0
// Values of config.json with their types and ranges checked. Problems are
// gathered, so that a user sees all of them at once.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace quantd::models {

struct Range {
  double min = 0;
  double max = 0;
};

// Reads one JSON object, which outlives it. A value that is absent or null is
// the default; one of a wrong type or out of range is the default and a
// problem. Not thread-safe.
class ConfigReader {
 public:
  explicit ConfigReader(const nlohmann::json& object) : object_(object) {}

  // True where the key is there and not null.
  bool Has(absl::string_view key) const;
  // True where the key is there with the value null.
  bool IsNull(absl::string_view key) const;
  int64_t Int(absl::string_view key, int64_t otherwise, Range range);
  double Number(absl::string_view key, double otherwise, Range range);
  bool Bool(absl::string_view key, bool otherwise);
  std::string Text(absl::string_view key, absl::string_view otherwise);
  // An object or array; null where it is absent or of another type.
  const nlohmann::json& Object(absl::string_view key);
  const nlohmann::json& Array(absl::string_view key);

  // Adds a problem found by the caller; a sentence without its full stop.
  void Problem(std::string what) { problems_.push_back(std::move(what)); }
  // OK, or INVALID_ARGUMENT, CONFIG_VALUE, naming every problem.
  absl::Status status() const;

 private:
  const nlohmann::json& Get(absl::string_view key) const;

  const nlohmann::json& object_;
  std::vector<std::string> problems_;
};

}  // namespace quantd::models
