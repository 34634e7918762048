// SPDX-License-Identifier: Apache-2.0
// GGUF files as Hugging Face checkpoints: names, row order and config are
// translated, block-quantized tensors come back as float16.
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/checkpoints/containers.h"
#include "worker/checkpoints/gguf_header.h"
#include "worker/checkpoints/gguf_names.h"
#include "worker/checkpoints/input_file.h"

namespace quantd::checkpoints {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr char kExtension[] = ".gguf";
constexpr char kRopeDivisors[] = "rope_freqs.weight";
// Whole rows are read at a time, of about so many bytes.
constexpr int64_t kReadBytes = int64_t{4} << 20;

// The types that LibTorch has are read as they are.
at::ScalarType StoredType(const GgufTensor& tensor) {
  if (absl::string_view(tensor.type->name) == "F16") return at::kHalf;
  if (absl::string_view(tensor.type->name) == "BF16") return at::kBFloat16;
  return at::kFloat;
}

bool IsBlockQuantized(const GgufTensor& tensor) {
  return tensor.type->block_values > 1;
}

// The values of a block-quantized tensor rounded to `to`'s type, a few MiB at a
// time: float32 values of a large matrix are never in memory as a whole.
absl::Status Dequantize(const InputFile& file, const GgufTensor& tensor,
                        const at::Tensor& to) {
  const GgufType& type = *tensor.type;
  const int64_t num_blocks = tensor.size_bytes / type.block_bytes;
  const int64_t step =
      std::min(num_blocks, std::max<int64_t>(1, kReadBytes / type.block_bytes));
  std::vector<uint8_t> bytes(static_cast<size_t>(step * type.block_bytes));
  std::vector<float> values(static_cast<size_t>(step * type.block_values));
  const at::Tensor flat = to.view({-1});
  for (int64_t first = 0; first < num_blocks; first += step) {
    const int64_t count = std::min(step, num_blocks - first);
    RETURN_IF_ERROR(file.ReadAt(tensor.offset + first * type.block_bytes,
                                count * type.block_bytes, bytes.data()));
    type.dequantize(bytes.data(), count, values.data());
    const int64_t length = count * type.block_values;
    flat.narrow(0, first * type.block_values, length)
        .copy_(at::from_blob(values.data(), {length}, at::kFloat));
  }
  return absl::OkStatus();
}

// Scales of blocks are float16, and so is what they stand for, to 11 bits: an
// exported checkpoint keeps such a tensor in two bytes a value. Rounding here
// and not there lets everybody see the same weights. A value beyond float16
// (65504) keeps its tensor in float32.
absl::StatusOr<at::Tensor> ReadBlocks(const InputFile& file,
                                      const GgufTensor& tensor) {
  at::Tensor result = at::empty(tensor.shape, at::kHalf);
  RETURN_IF_ERROR(Dequantize(file, tensor, result));
  if (at::isfinite(result).all().item<bool>()) return result;
  result = at::empty(tensor.shape, at::kFloat);
  RETURN_IF_ERROR(Dequantize(file, tensor, result));
  return result;
}

absl::StatusOr<at::Tensor> ReadTensor(const InputFile& file,
                                      const GgufTensor& tensor) {
  if (IsBlockQuantized(tensor)) return ReadBlocks(file, tensor);
  at::Tensor result = at::empty(tensor.shape, StoredType(tensor));
  RETURN_IF_ERROR(
      file.ReadAt(tensor.offset, tensor.size_bytes, result.mutable_data_ptr()));
  return result;
}

// Undoes the converter's order of rows: within a head of D rows it put row
// j * D/2 + i at 2 i + j.
at::Tensor Deinterleave(const at::Tensor& tensor, int64_t heads) {
  std::vector<int64_t> split = {heads, tensor.size(0) / heads / 2, 2};
  const auto rest = tensor.sizes().slice(1);
  split.insert(split.end(), rest.begin(), rest.end());
  return tensor.view(split).transpose(1, 2).reshape(tensor.sizes());
}

class GgufReader : public CheckpointReader {
 public:
  static absl::StatusOr<std::unique_ptr<CheckpointReader>> Open(
      const std::string& path);

  const std::map<std::string, TensorInfo>& tensors() const override {
    return tensors_;
  }
  absl::StatusOr<at::Tensor> Read(const std::string& name) override;
  const Json& config() const override { return config_; }
  const Json& metadata() const override { return header_.metadata; }
  const std::map<std::string, std::string>& companions() const override {
    return companions_;
  }
  absl::StatusOr<std::string> Digest() override;

 private:
  absl::Status Load();
  absl::Status AddTensor(size_t index);
  absl::StatusOr<std::vector<float>> RopeDivisors() const;

  struct Place {
    size_t index = 0;
    int64_t interleaved_heads = 0;
  };

  // Constant once the reader is open.
  std::unique_ptr<InputFile> file_;
  GgufHeader header_;
  Json config_;
  std::map<std::string, Place> places_;
  std::map<std::string, TensorInfo> tensors_;
  const std::map<std::string, std::string> companions_ = {};

  absl::Mutex mu_;
  std::string digest_ ABSL_GUARDED_BY(mu_);
};

absl::StatusOr<std::unique_ptr<CheckpointReader>> GgufReader::Open(
    const std::string& path) {
  auto reader = std::make_unique<GgufReader>();
  ASSIGN_OR_RETURN(reader->file_, InputFile::Open(path));
  RETURN_IF_ERROR(reader->Load());
  return reader;
}

absl::Status GgufReader::Load() {
  ASSIGN_OR_RETURN(header_, ReadGgufHeader(*file_));
  const auto splits = header_.metadata.find("split.count");
  if (splits != header_.metadata.end() && splits->is_number() && *splits > 1) {
    return RefuseGguf("GGUF_SPLIT",
                      "the model is split over several files; merge them "
                      "first (gguf-split --merge)");
  }
  ASSIGN_OR_RETURN(const std::vector<float> divisors, RopeDivisors());
  ASSIGN_OR_RETURN(config_, MakeGgufConfig(header_, divisors));
  for (size_t i = 0; i < header_.tensors.size(); ++i) {
    RETURN_IF_ERROR(AddTensor(i));
  }
  return absl::OkStatus();
}

absl::Status GgufReader::AddTensor(size_t index) {
  const GgufTensor& tensor = header_.tensors[index];
  if (tensor.name == kRopeDivisors) return absl::OkStatus();
  const std::string name = HuggingFaceName(tensor.name);
  const int64_t heads = InterleavedHeads(
      config_, config_["model_type"].get<std::string>(), tensor.name);
  // Of a quantized row nothing can be lost by moving it as a whole.
  if (heads < 0 || (heads > 0 && tensor.shape[0] % (2 * heads) != 0)) {
    return RefuseGguf(
        "GGUF_SHAPE",
        absl::StrCat("tensor \"", tensor.name, "\" has ", tensor.shape[0],
                     " rows for ", heads, " heads"));
  }
  if (!places_.emplace(name, Place{index, heads}).second) {
    return RefuseGguf("DUPLICATE_KEY",
                      absl::StrCat("two tensors mean \"", name, "\""));
  }
  tensors_[name] = {.dtype = tensor.type->name,
                    .shape = tensor.shape,
                    .size_bytes = tensor.size_bytes};
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> GgufReader::RopeDivisors() const {
  for (const GgufTensor& tensor : header_.tensors) {
    if (tensor.name != kRopeDivisors) continue;
    ASSIGN_OR_RETURN(const at::Tensor stored, ReadTensor(*file_, tensor));
    const at::Tensor values = stored.to(at::kFloat).contiguous();
    const float* first = values.const_data_ptr<float>();
    return std::vector<float>(first, first + values.numel());
  }
  return std::vector<float>();
}

absl::StatusOr<at::Tensor> GgufReader::Read(const std::string& name) {
  const auto place = places_.find(name);
  if (place == places_.end()) return TensorMissing(name);
  ASSIGN_OR_RETURN(const at::Tensor tensor,
                   ReadTensor(*file_, header_.tensors[place->second.index]));
  const int64_t heads = place->second.interleaved_heads;
  return heads == 0 ? tensor : Deinterleave(tensor, heads);
}

absl::StatusOr<std::string> GgufReader::Digest() {
  absl::MutexLock lock(&mu_);
  if (digest_.empty()) {
    base::Sha256 digest;
    RETURN_IF_ERROR(file_->AddTo(&digest));
    digest_ = digest.Finish();
  }
  return digest_;
}

// A .gguf file itself, or the only one of a directory.
std::string FileOf(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return path;
  std::string found;
  for (const fs::directory_entry& entry : fs::directory_iterator(path, error)) {
    if (entry.path().extension() != kExtension) continue;
    if (!found.empty()) return "";
    found = entry.path();
  }
  return found;
}

bool Matches(const std::string& path) {
  const std::string file = FileOf(path);
  const std::string head = FileHead(file);
  // A damaged file of that name is refused as one, a pickle as what it is.
  return absl::StartsWith(head, "GGUF") ||
         (absl::EndsWith(file, kExtension) && !LooksLikePickle(head));
}

absl::StatusOr<std::unique_ptr<CheckpointReader>> Open(
    const std::string& path) {
  return GgufReader::Open(FileOf(path));
}

}  // namespace

CheckpointEntry GgufContainer() {
  CheckpointEntry entry;
  entry.description.set_seam(v1::SEAM_CHECKPOINT);
  entry.description.set_id("gguf");
  entry.description.set_summary(
      "A .gguf file of version 2 or 3, of floats or blocks but IQ1, IQ2, IQ3 "
      "and "
      "NVFP4.");
  entry.description.set_reference("docs/formats/gguf.md");
  entry.matches = Matches;
  entry.open = Open;
  return entry;
}

}  // namespace quantd::checkpoints
