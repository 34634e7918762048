// SPDX-License-Identifier: Apache-2.0
// Messages as the JSON that people write: field names as in the .proto files, a
// Value as the bare scalar, a Component without parameters as its id.
#pragma once

#include <string>
#include <vector>

#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"
#include "proto/spec/violation.h"

namespace quantd::spec {

// Fields that are unset or have their default are left out. Keys are sorted, so
// equal messages give equal text whatever the order of their maps.
nlohmann::json ToJson(const google::protobuf::Message& message);

// Merges `json` into `message`: objects field by field, lists and scalars
// replace. Appends to `violations` every unknown key (with the nearest ones)
// and every value of a wrong type; `path` is put before field names.
void FromJson(const nlohmann::json& json, const std::string& path,
              google::protobuf::Message* message,
              std::vector<Violation>* violations);

}  // namespace quantd::spec
