// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoints/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/ids.h"
#include "proto/base/status_macros.h"
#include "worker/checkpoints/safetensors_header.h"

namespace quantd::checkpoints {
namespace {

// Keeps the order of insertion, which is the order in the file.
using Json = nlohmann::ordered_json;

constexpr size_t kHeaderAlignment = 8;

struct Item {
  std::string name;
  at::Tensor tensor;
  const SafetensorsDtype* dtype = nullptr;
};

absl::StatusOr<std::vector<Item>> FileOrder(const TensorMap& tensors) {
  std::vector<Item> items;
  for (const auto& [name, tensor] : tensors) {
    const SafetensorsDtype* dtype = FindSafetensorsDtype(tensor.scalar_type());
    if (dtype == nullptr || !tensor.device().is_cpu() ||
        !tensor.is_contiguous()) {
      return base::MakeError(
          absl::StatusCode::kInternal, "TENSOR_UNWRITABLE",
          absl::StrCat("tensor \"", name,
                       "\" has no safetensors dtype or is not contiguous on "
                       "the CPU"));
    }
    items.push_back({name, tensor, dtype});
  }
  // Stable: names are already in order. Rank is the place in the table.
  std::stable_sort(
      items.begin(), items.end(),
      [](const Item& a, const Item& b) { return a.dtype > b.dtype; });
  return items;
}

std::string Header(const std::vector<Item>& items,
                   const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  size_t offset = 0;
  // ordered_json looks every key up in turn; many tensors need the raw push.
  auto& pairs = header.get_ref<Json::object_t&>();
  for (const Item& item : items) {
    const size_t end = offset + item.tensor.nbytes();
    pairs.emplace_back(item.name, Json{{"dtype", item.dtype->name},
                                       {"shape", item.tensor.sizes().vec()},
                                       {"data_offsets", {offset, end}}});
    offset = end;
  }
  std::string text = header.dump();
  const size_t padding =
      (kHeaderAlignment - text.size() % kHeaderAlignment) % kHeaderAlignment;
  text.append(padding, ' ');
  const uint64_t length = text.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + text;
}

absl::Status WriteAll(int fd, const void* from, size_t count) {
  const char* next = static_cast<const char*>(from);
  while (count > 0) {
    const ssize_t wrote = write(fd, next, count);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return base::ErrnoStatus(errno, "writing weights");
    next += wrote;
    count -= static_cast<size_t>(wrote);
  }
  return absl::OkStatus();
}

absl::Status WriteItems(int fd, const std::string& header,
                        const std::vector<Item>& items) {
  RETURN_IF_ERROR(WriteAll(fd, header.data(), header.size()));
  for (const Item& item : items) {
    RETURN_IF_ERROR(
        WriteAll(fd, item.tensor.const_data_ptr(), item.tensor.nbytes()));
  }
  if (fdatasync(fd) != 0) return base::ErrnoStatus(errno, "syncing weights");
  return absl::OkStatus();
}

absl::Status Rename(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return base::ErrnoStatus(errno, "renaming weights");
}

std::string ParentOf(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? "." : parent;
}

}  // namespace

absl::Status WriteSafetensors(
    const std::string& path, const TensorMap& tensors,
    const std::map<std::string, std::string>& metadata) {
  ASSIGN_OR_RETURN(const std::vector<Item> items, FileOrder(tensors));
  const std::string header = Header(items, metadata);
  const std::string temporary =
      absl::StrCat(path, ".", base::IdGenerator::Real().NewJobId(), ".tmp");
  const int fd =
      open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return base::ErrnoStatus(errno, "creating a weights file");
  absl::Status status = WriteItems(fd, header, items);
  if (close(fd) != 0 && status.ok()) {
    status = base::ErrnoStatus(errno, "closing a weights file");
  }
  if (status.ok()) status = Rename(temporary, path);
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  return base::SyncDirectory(ParentOf(path));
}

ShardedWriter::ShardedWriter(std::string directory, int64_t max_shard_bytes)
    : directory_(std::move(directory)), max_shard_bytes_(max_shard_bytes) {}

// A shard's final name holds the number of shards, known only at the end.
std::string ShardedWriter::PartialPath(size_t shard) const {
  return absl::StrCat(directory_, "/.shard-", shard, ".partial");
}

absl::Status ShardedWriter::Add(const std::string& name,
                                const at::Tensor& tensor) {
  const int64_t bytes = static_cast<int64_t>(tensor.nbytes());
  if (!pending_.empty() && pending_bytes_ + bytes > max_shard_bytes_) {
    RETURN_IF_ERROR(Flush());
  }
  if (!names_.insert(name).second) {
    return base::MakeError(absl::StatusCode::kInternal, "TENSOR_UNWRITABLE",
                           absl::StrCat("tensor \"", name, "\" came twice"));
  }
  pending_.emplace(name, tensor);
  pending_bytes_ += bytes;
  total_bytes_ += bytes;
  return absl::OkStatus();
}

absl::Status ShardedWriter::Flush() {
  RETURN_IF_ERROR(WriteSafetensors(PartialPath(shards_.size()), pending_));
  std::vector<std::string> names;
  for (const auto& [name, tensor] : pending_) names.push_back(name);
  shards_.push_back(std::move(names));
  pending_.clear();
  pending_bytes_ = 0;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ShardedWriter::Finish() {
  if (!pending_.empty() || shards_.empty()) RETURN_IF_ERROR(Flush());
  std::vector<std::string> files;
  std::map<std::string, std::string> weight_map;
  for (size_t i = 0; i < shards_.size(); ++i) {
    files.push_back(shards_.size() == 1
                        ? "model.safetensors"
                        : absl::StrFormat("model-%05d-of-%05d.safetensors",
                                          i + 1, shards_.size()));
    RETURN_IF_ERROR(
        Rename(PartialPath(i), absl::StrCat(directory_, "/", files[i])));
    for (const std::string& name : shards_[i]) weight_map[name] = files[i];
  }
  if (files.size() == 1) {
    RETURN_IF_ERROR(base::SyncDirectory(directory_));
    return files;
  }
  const Json index = {{"metadata", {{"total_size", total_bytes_}}},
                      {"weight_map", weight_map}};
  files.push_back("model.safetensors.index.json");
  RETURN_IF_ERROR(base::WriteFileAtomically(
      absl::StrCat(directory_, "/", files.back()), index.dump(2) + "\n"));
  return files;
}

}  // namespace quantd::checkpoints
