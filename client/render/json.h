// SPDX-License-Identifier: Apache-2.0
// Messages for machines. The form is stable: names and order are those of the
// .proto files, fields are only ever added, scalars are always there and absent
// messages are left out. Differences from protobuf's own JSON: 64-bit numbers
// are numbers, enum values lose their prefix ("RUNNING"), a parameter Value is
// the bare scalar, times are "2026-11-22T20:00:01Z" with the fraction they
// have.
#pragma once

#include <ostream>
#include <string>

#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"

namespace quantd::render {

using Json = nlohmann::ordered_json;

Json ToJson(const google::protobuf::Message& message);

enum class OutputFormat { kTable, kJson, kJsonLines, kYaml, kName };

// JSON with two spaces, one line of JSON, or YAML. With kJsonLines and a
// non-empty `items`, the elements of that array, a line each.
void PrintJson(const Json& json, OutputFormat format, absl::string_view items,
               std::ostream& out);

// Block YAML. Strings that YAML would read as something else are quoted.
std::string ToYaml(const Json& json);

}  // namespace quantd::render
