// SPDX-License-Identifier: Apache-2.0
// The header of a GGUF file, versions 2 and 3: metadata and tensor places, as
// stored and with GGUF's own names.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/checkpoints/input_file.h"

namespace quantd::checkpoints {

// A tensor type: blocks of `block_values` values in `block_bytes` bytes.
struct GgufType {
  uint32_t id;
  const char* name;
  int64_t block_values;
  int64_t block_bytes;
  // float32 values of `count` blocks; null where we cannot read the type.
  void (*dequantize)(const uint8_t* blocks, int64_t count, float* values);
};

// Null where GGUF has no such type.
const GgufType* FindGgufType(uint32_t id);

struct GgufTensor {
  std::string name;
  const GgufType* type = nullptr;
  // Outermost dimension first, the reverse of the file's order.
  std::vector<int64_t> shape;
  // In the file.
  int64_t offset = 0;
  int64_t size_bytes = 0;
};

struct GgufHeader {
  // Keys to values; arrays of any length.
  nlohmann::json metadata = nlohmann::json::object();
  std::vector<GgufTensor> tensors;
};

// Checks everything that can be checked without reading tensors.
// INVALID_ARGUMENT with one of the GGUF reasons in docs/errors/checkpoints.md;
// GGUF_TYPE_UNSUPPORTED, naming the type, for a tensor that cannot be read.
absl::StatusOr<GgufHeader> ReadGgufHeader(const InputFile& file);

// INVALID_ARGUMENT.
absl::Status RefuseGguf(absl::string_view reason, absl::string_view message);

}  // namespace quantd::checkpoints
