// SPDX-License-Identifier: Apache-2.0
// One safetensors file, or shards with an index, and the files beside them.
#include <ATen/ops/empty.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/checkpoints/containers.h"
#include "worker/checkpoints/input_file.h"
#include "worker/checkpoints/safetensors_header.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/checkpoints/strict_json.h"

namespace quantd::checkpoints {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr char kExtension[] = ".safetensors";
constexpr size_t kMaxShards = 10'000;
constexpr size_t kMaxCompanions = 1'000;
constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
constexpr int64_t kMaxIndexBytes = 100'000'000;

absl::Status Refuse(absl::string_view reason, absl::string_view message) {
  return base::MakeError(absl::StatusCode::kInvalidArgument, reason, message);
}

// An open file and its checked header.
struct Shard {
  std::string name;
  std::unique_ptr<InputFile> file;
  SafetensorsHeader header;
};

absl::StatusOr<Shard> OpenShard(const fs::path& path) {
  Shard shard;
  shard.name = path.filename();
  ASSIGN_OR_RETURN(shard.file, InputFile::Open(path));
  ASSIGN_OR_RETURN(shard.header, ReadSafetensorsHeader(*shard.file));
  return shard;
}

absl::StatusOr<at::Tensor> ReadEntry(const Shard& shard,
                                     const std::string& name,
                                     const SafetensorsEntry& entry) {
  if (!entry.dtype->type.has_value()) {
    return Refuse(
        "DTYPE_UNREADABLE",
        absl::StrCat("tensor \"", name, "\" is stored as ", entry.dtype->name,
                     ", which is listed but not read"));
  }
  at::Tensor tensor = at::empty(entry.shape, *entry.dtype->type);
  RETURN_IF_ERROR(shard.file->ReadAt(shard.header.data_begin + entry.begin,
                                     entry.end - entry.begin,
                                     tensor.mutable_data_ptr()));
  return tensor;
}

class SafetensorsReader : public CheckpointReader {
 public:
  // Takes every tensor of a shard, or those that the index gives it.
  void AddShard(Shard shard) {
    const size_t index = shards_.size();
    for (const auto& [name, entry] : shard.header.entries) {
      AddTensor(name, index, entry);
    }
    if (index == 0) metadata_ = shard.header.metadata;
    shards_.push_back(std::move(shard));
  }

  absl::Status AddShards(const fs::path& directory, const Json& weight_map);
  absl::Status ReadConfig(const fs::path& directory);
  void FindCompanions(const fs::path& directory);

  const std::map<std::string, TensorInfo>& tensors() const override {
    return tensors_;
  }
  absl::StatusOr<at::Tensor> Read(const std::string& name) override {
    const auto place = places_.find(name);
    if (place == places_.end()) return TensorMissing(name);
    return ReadEntry(shards_[place->second.first], name, place->second.second);
  }
  absl::StatusOr<at::Tensor> ReadSlice(const std::string& name,
                                       int64_t index) override {
    const auto place = places_.find(name);
    if (place == places_.end()) return TensorMissing(name);
    SafetensorsEntry slice = place->second.second;
    const int64_t bytes = (slice.end - slice.begin) / slice.shape.front();
    slice.begin += index * bytes;
    slice.end = slice.begin + bytes;
    slice.shape.erase(slice.shape.begin());
    return ReadEntry(shards_[place->second.first], name, slice);
  }
  const Json& config() const override { return config_; }
  const Json& metadata() const override { return metadata_; }
  const std::map<std::string, std::string>& companions() const override {
    return companions_;
  }
  absl::StatusOr<std::string> Digest() override;

 private:
  void AddTensor(const std::string& name, size_t shard,
                 const SafetensorsEntry& entry) {
    places_[name] = {shard, entry};
    tensors_[name] = {.dtype = entry.dtype->name,
                      .shape = entry.shape,
                      .size_bytes = entry.end - entry.begin};
  }

  // Constant once the reader is open.
  std::vector<Shard> shards_;
  std::map<std::string, std::pair<size_t, SafetensorsEntry>> places_;
  std::map<std::string, TensorInfo> tensors_;
  Json config_ = Json::object();
  Json metadata_ = Json::object();
  std::map<std::string, std::string> companions_;

  absl::Mutex mu_;
  std::string digest_ ABSL_GUARDED_BY(mu_);
};

// Tensor names of an index by shard. Shard names are basenames, so that an
// index cannot reach out of its directory.
absl::StatusOr<std::map<std::string, std::set<std::string>>> TensorsByShard(
    const Json& weight_map) {
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [tensor, file] : weight_map.items()) {
    if (!file.is_string()) {
      return Refuse("INDEX_FORMAT", "weight_map must map tensors to files");
    }
    const std::string& name = file.get_ref<const std::string&>();
    if (name.empty() || name.size() > 255 || name[0] == '.' ||
        name.find_first_of(std::string("/\\\0", 3)) != name.npos ||
        !absl::EndsWith(name, kExtension)) {
      return Refuse("INDEX_SHARD_NAME",
                    "the index names a shard that is no plain .safetensors "
                    "file name");
    }
    shards[name].insert(tensor);
  }
  if (shards.empty()) return Refuse("INDEX_FORMAT", "the index is empty");
  if (shards.size() > kMaxShards) {
    return Refuse(
        "INDEX_SHARDS_TOO_MANY",
        absl::StrCat("the index names ", shards.size(), " shards; at most ",
                     kMaxShards, " are allowed"));
  }
  return shards;
}

absl::Status SafetensorsReader::AddShards(const fs::path& directory,
                                          const Json& weight_map) {
  ASSIGN_OR_RETURN(const auto by_shard, TensorsByShard(weight_map));
  for (const auto& [name, tensors] : by_shard) {
    auto shard = OpenShard(directory / name);
    if (absl::IsNotFound(shard.status())) {
      return Refuse(
          "INDEX_SHARD_MISSING",
          absl::StrCat("the index names ", name, ", which is not there"));
    }
    if (!shard.ok()) return base::AddContext(shard.status(), name);
    const size_t index = shards_.size();
    for (const std::string& tensor : tensors) {
      const auto entry = shard->header.entries.find(tensor);
      if (entry == shard->header.entries.end()) {
        return Refuse(
            "INDEX_TENSOR_MISSING",
            absl::StrCat("the index looks for tensor \"", tensor.substr(0, 80),
                         "\" in ", name, ", which does not have it"));
      }
      AddTensor(tensor, index, entry->second);
    }
    if (index == 0) metadata_ = shard->header.metadata;
    shards_.push_back(*std::move(shard));
  }
  return absl::OkStatus();
}

absl::Status SafetensorsReader::ReadConfig(const fs::path& directory) {
  const fs::path path = directory / "config.json";
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return absl::OkStatus();
  ASSIGN_OR_RETURN(
      config_, ReadStrictJsonObject(
                   path, kMaxConfigBytes,
                   {.syntax_reason = "CONFIG_JSON", .what = "config.json"}));
  return absl::OkStatus();
}

void SafetensorsReader::FindCompanions(const fs::path& directory) {
  std::error_code error;
  for (const fs::directory_entry& entry :
       fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename();
    const std::string extension = entry.path().extension();
    const bool kept = extension == ".json" || extension == ".txt" ||
                      extension == ".model" || extension == ".jinja";
    if (!kept || name == "config.json" || name == kIndexFile) continue;
    if (!entry.is_regular_file(error)) continue;
    if (companions_.size() == kMaxCompanions) break;
    companions_[name] = entry.path();
  }
}

absl::StatusOr<std::string> SafetensorsReader::Digest() {
  absl::MutexLock lock(&mu_);
  if (!digest_.empty()) return digest_;
  base::Sha256 digest;
  digest.Update(config_.dump());
  for (const Shard& shard : shards_) {
    digest.Update(absl::StrCat("\n", shard.file->size_bytes(), "\n"));
    RETURN_IF_ERROR(shard.file->AddTo(&digest));
  }
  digest_ = digest.Finish();
  return digest_;
}

// The only .safetensors file of a directory; empty where there is no such one.
fs::path OnlyWeightsFile(const fs::path& directory) {
  fs::path found;
  std::error_code error;
  for (const fs::directory_entry& entry :
       fs::directory_iterator(directory, error)) {
    if (entry.path().extension() != kExtension) continue;
    if (!found.empty()) return {};
    found = entry.path();
  }
  return found;
}

bool Matches(const std::string& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    return fs::exists(fs::path(path) / kSingleFile, ignored) ||
           fs::exists(fs::path(path) / kIndexFile, ignored) ||
           !OnlyWeightsFile(path).empty();
  }
  const std::string head = FileHead(path);
  if (LooksLikePickle(head) || absl::StartsWith(head, "GGUF")) return false;
  // A header length below 2^32 and the brace that begins a JSON object.
  return absl::EndsWith(path, kExtension) ||
         (head.size() > 8 &&
          head.substr(4, 4) == absl::string_view("\0\0\0\0", 4) &&
          head[8] == '{');
}

absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenDirectory(
    const fs::path& directory) {
  auto reader = std::make_unique<SafetensorsReader>();
  RETURN_IF_ERROR(reader->ReadConfig(directory));
  reader->FindCompanions(directory);
  std::error_code ignored;
  fs::path single = directory / kSingleFile;
  if (!fs::exists(single, ignored)) {
    if (fs::exists(directory / kIndexFile, ignored)) {
      ASSIGN_OR_RETURN(
          const Json index,
          ReadStrictJsonObject(directory / kIndexFile, kMaxIndexBytes,
                               {.syntax_reason = "INDEX_JSON",
                                .what = "the index of the shards"}));
      const auto map = index.find("weight_map");
      if (map == index.end() || !map->is_object()) {
        return Refuse("INDEX_FORMAT", "the index has no weight_map");
      }
      RETURN_IF_ERROR(reader->AddShards(directory, *map));
      return reader;
    }
    single = OnlyWeightsFile(directory);
  }
  ASSIGN_OR_RETURN(Shard shard, OpenShard(single));
  reader->AddShard(std::move(shard));
  return reader;
}

absl::StatusOr<std::unique_ptr<CheckpointReader>> Open(
    const std::string& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return OpenDirectory(path);
  auto reader = std::make_unique<SafetensorsReader>();
  ASSIGN_OR_RETURN(Shard shard, OpenShard(path));
  reader->AddShard(std::move(shard));
  RETURN_IF_ERROR(reader->ReadConfig(fs::path(path).parent_path()));
  return reader;
}

}  // namespace

CheckpointEntry SafetensorsContainer() {
  CheckpointEntry entry;
  entry.description.set_seam(v1::SEAM_CHECKPOINT);
  entry.description.set_id("safetensors");
  entry.description.set_summary(
      "A directory with config.json and model.safetensors, whole or in shards, "
      "or one .safetensors file.");
  entry.description.set_reference("docs/formats/safetensors.md");
  entry.matches = Matches;
  entry.open = Open;
  return entry;
}

absl::StatusOr<TensorMap> ReadSafetensors(const std::string& path) {
  ASSIGN_OR_RETURN(const Shard shard, OpenShard(path));
  TensorMap tensors;
  for (const auto& [name, entry] : shard.header.entries) {
    ASSIGN_OR_RETURN(tensors[name], ReadEntry(shard, name, entry));
  }
  return tensors;
}

}  // namespace quantd::checkpoints
