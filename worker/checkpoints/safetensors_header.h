// SPDX-License-Identifier: Apache-2.0
// The header of a safetensors file: what is in it and where. Layout: 8 bytes
// little-endian header length N, N bytes of JSON, then the tensors without a
// gap to the end of the file.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/checkpoints/input_file.h"

namespace quantd::checkpoints {

struct SafetensorsDtype {
  const char* name;
  int bits;
  // Nothing where LibTorch has no such type or stores it otherwise.
  std::optional<at::ScalarType> type;
};

// By rank, lowest first: files hold tensors of higher rank first.
const std::vector<SafetensorsDtype>& SafetensorsDtypes();
const SafetensorsDtype* FindSafetensorsDtype(absl::string_view name);
const SafetensorsDtype* FindSafetensorsDtype(at::ScalarType type);

struct SafetensorsEntry {
  const SafetensorsDtype* dtype = nullptr;
  std::vector<int64_t> shape;
  // Bytes from the end of the header.
  int64_t begin = 0;
  int64_t end = 0;
};

struct SafetensorsHeader {
  std::map<std::string, SafetensorsEntry> entries;
  // The __metadata__ object, strings to strings.
  nlohmann::json metadata = nlohmann::json::object();
  // Where the tensors begin in the file.
  int64_t data_begin = 0;
};

// Checks everything that can be checked without reading tensors.
// INVALID_ARGUMENT with one of the reasons in docs/errors/checkpoints.md.
absl::StatusOr<SafetensorsHeader> ReadSafetensorsHeader(const InputFile& file);

// The same of a header's JSON, for `data_bytes` of tensors behind it.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(
    absl::string_view header, int64_t data_bytes);

}  // namespace quantd::checkpoints
