// SPDX-License-Identifier: Apache-2.0
// The seam of checkpoint containers: files to named tensors. Files come from
// strangers: every size is checked before anything is allocated, nothing is
// executed, and each refusal has its own reason (docs/errors.md).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "quantd/v1/catalog.pb.h"

namespace quantd::checkpoints {

struct TensorInfo {
  // As stored: "F32", "BF16", "I32", "Q4_1", ...
  std::string dtype;
  std::vector<int64_t> shape;
  int64_t size_bytes = 0;
};

// An open checkpoint. Weights stay in the file until they are read. Names and
// shapes are those of the Hugging Face checkpoint of the family, whatever the
// container calls them. Thread-safe.
class CheckpointReader {
 public:
  virtual ~CheckpointReader() = default;
  virtual const std::map<std::string, TensorInfo>& tensors() const = 0;
  // The tensor in its stored dtype, a copy. Block-quantized GGUF types come
  // back as float16, or float32 where a value is beyond it. NOT_FOUND,
  // TENSOR_MISSING.
  virtual absl::StatusOr<at::Tensor> Read(const std::string& name) = 0;
  // Entry `index` of the tensor's first dimension, which has it; a copy.
  virtual absl::StatusOr<at::Tensor> ReadSlice(const std::string& name,
                                               int64_t index);
  // What Read gives, as float32. INVALID_ARGUMENT for integer tensors.
  absl::StatusOr<at::Tensor> ReadFloat(const std::string& name);
  // The model's config.json, or one made from the container's metadata; an
  // empty object where there is none.
  virtual const nlohmann::json& config() const = 0;
  // Container metadata: for GGUF all keys, tokenizer arrays included; for
  // safetensors the __metadata__ object.
  virtual const nlohmann::json& metadata() const = 0;
  // Files beside the weights by name ("tokenizer.json", ...), as full paths;
  // empty for single-file containers.
  virtual const std::map<std::string, std::string>& companions() const = 0;
  // SHA-256 over the weights' bytes and the config; computed at first use.
  virtual absl::StatusOr<std::string> Digest() = 0;
};

struct CheckpointEntry {
  v1::ComponentEntry description;
  // True where `path` (a directory or a file) looks like this container, by
  // magic bytes, not by extension.
  bool (*matches)(const std::string& path);
  absl::StatusOr<std::unique_ptr<CheckpointReader>> (*open)(
      const std::string& path);
};

const std::vector<CheckpointEntry>& Registry();

// Opens a model directory or file. NOT_FOUND, MODEL_NOT_FOUND;
// INVALID_ARGUMENT, CHECKPOINT_UNKNOWN (pickles are named as such).
absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenCheckpoint(
    const std::string& path);

}  // namespace quantd::checkpoints
