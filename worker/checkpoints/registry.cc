// SPDX-License-Identifier: Apache-2.0
#include <c10/core/ScalarType.h>

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/checkpoints/containers.h"
#include "worker/checkpoints/fused_experts.h"
#include "worker/checkpoints/input_file.h"
#include "worker/checkpoints/reader.h"

namespace quantd::checkpoints {
namespace {

namespace fs = std::filesystem;

// True where the path is a pickle or a directory that holds one.
bool HoldsPickle(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return LooksLikePickle(FileHead(path));
  for (const fs::directory_entry& entry : fs::directory_iterator(path, error)) {
    if (LooksLikePickle(FileHead(entry.path()))) return true;
  }
  return false;
}

}  // namespace

const std::vector<CheckpointEntry>& Registry() {
  static const auto& registry = *new std::vector<CheckpointEntry>{
      GgufContainer(), SafetensorsContainer()};
  return registry;
}

absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenCheckpoint(
    const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    return base::MakeError(absl::StatusCode::kNotFound, "MODEL_NOT_FOUND",
                           "there is no model directory or file there");
  }
  std::string known;
  for (const CheckpointEntry& entry : Registry()) {
    if (entry.matches(path)) {
      ASSIGN_OR_RETURN(auto reader, entry.open(path));
      return SplitFusedExperts(std::move(reader));
    }
    absl::StrAppend(&known, known.empty() ? "" : ", ", entry.description.id());
  }
  if (HoldsPickle(path)) return PickleRefused();
  return base::MakeError(absl::StatusCode::kInvalidArgument,
                         "CHECKPOINT_UNKNOWN",
                         absl::StrCat("no checkpoint of a known container (",
                                      known, ") was found there"));
}

absl::Status TensorMissing(const std::string& name) {
  return base::MakeError(
      absl::StatusCode::kNotFound, "TENSOR_MISSING",
      absl::StrCat("the checkpoint has no tensor \"", name, "\""));
}

absl::StatusOr<at::Tensor> CheckpointReader::ReadSlice(const std::string& name,
                                                       int64_t index) {
  ASSIGN_OR_RETURN(const at::Tensor whole, Read(name));
  return whole.select(0, index).clone();
}

absl::StatusOr<at::Tensor> CheckpointReader::ReadFloat(
    const std::string& name) {
  ASSIGN_OR_RETURN(const at::Tensor stored, Read(name));
  if (!at::isFloatingType(stored.scalar_type())) {
    return base::MakeError(absl::StatusCode::kInvalidArgument,
                           "TENSOR_NOT_FLOAT",
                           absl::StrCat("tensor \"", name, "\" is stored as ",
                                        tensors().at(name).dtype,
                                        " where floating point is needed"));
  }
  return stored.to(at::kFloat);
}

}  // namespace quantd::checkpoints
