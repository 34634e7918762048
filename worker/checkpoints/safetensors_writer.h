// SPDX-License-Identifier: Apache-2.0
// Writes safetensors files in the byte layout of the reference implementation:
// tensors sorted by dtype rank, then name; header padded to 8 bytes;
// {"format":"pt"} metadata. The same tensors give the same bytes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quantd::checkpoints {

// Tensor names to contiguous CPU tensors.
using TensorMap = std::map<std::string, at::Tensor>;

// One file, written to a temporary name, synced and renamed.
absl::Status WriteSafetensors(
    const std::string& path, const TensorMap& tensors,
    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

// Every tensor of one file, checked like any other input.
absl::StatusOr<TensorMap> ReadSafetensors(const std::string& path);

// Writes model.safetensors, or shards of at most `max_shard_bytes` with their
// index, a tensor at a time, so that memory holds one shard.
class ShardedWriter {
 public:
  ShardedWriter(std::string directory, int64_t max_shard_bytes);
  // Tensors may come in any order that is the same every time.
  absl::Status Add(const std::string& name, const at::Tensor& tensor);
  // Writes what is left and the index; the names of the files, which are
  // weights in order and then the index, where there is one.
  absl::StatusOr<std::vector<std::string>> Finish();

 private:
  absl::Status Flush();
  std::string PartialPath(size_t shard) const;

  const std::string directory_;
  const int64_t max_shard_bytes_;
  TensorMap pending_;
  int64_t pending_bytes_ = 0;
  int64_t total_bytes_ = 0;
  std::set<std::string> names_;
  // The tensors of each shard that is written.
  std::vector<std::vector<std::string>> shards_;
};

}  // namespace quantd::checkpoints
