// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoints/fused_experts.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/checkpoints/containers.h"

namespace quantd::checkpoints {
namespace {

constexpr char kFusedLayer[] = ".mlp";
constexpr char kFusedGateUp[] = ".mlp.experts.gate_up_proj";
constexpr char kFusedDown[] = ".mlp.experts.down_proj";
constexpr char kRouter[] = ".gate.weight";
constexpr int64_t kMaxExperts = 65536;

// How a model_type calls the same weights when they are not fused.
struct ExpertNames {
  const char* model_type;
  const char* layer;
  const char* gate;
  const char* up;
  const char* down;
};

constexpr ExpertNames kExpertNames[] = {
    {"mixtral", ".block_sparse_moe", "w1", "w3", "w2"},
    {"olmoe", ".mlp", "gate_proj", "up_proj", "down_proj"},
    {"qwen2_moe", ".mlp", "gate_proj", "up_proj", "down_proj"},
    {"qwen3_moe", ".mlp", "gate_proj", "up_proj", "down_proj"},
};

const ExpertNames* FindNames(const nlohmann::json& config) {
  const auto found = config.find("model_type");
  if (found == config.end() || !found->is_string()) return nullptr;
  for (const ExpertNames& names : kExpertNames) {
    if (*found == names.model_type) return &names;
  }
  return nullptr;
}

// Rows of one expert in a fused tensor, or a whole tensor by another name.
struct Place {
  std::string stored;
  int64_t expert = -1;  // -1: the whole tensor.
  int64_t begin = 0;
  int64_t rows = 0;
};

class SplitReader : public CheckpointReader {
 public:
  SplitReader(std::unique_ptr<CheckpointReader> reader,
              const ExpertNames& names)
      : reader_(std::move(reader)),
        names_(names),
        tensors_(reader_->tensors()) {}

  absl::Status Split();

  const std::map<std::string, TensorInfo>& tensors() const override {
    return tensors_;
  }
  absl::StatusOr<at::Tensor> Read(const std::string& name) override {
    const auto found = places_.find(name);
    if (found == places_.end()) return reader_->Read(name);
    const Place& place = found->second;
    if (place.expert < 0) return reader_->Read(place.stored);
    ASSIGN_OR_RETURN(const at::Tensor both,
                     reader_->ReadSlice(place.stored, place.expert));
    return both.narrow(0, place.begin, place.rows).clone();
  }
  absl::StatusOr<at::Tensor> ReadSlice(const std::string& name,
                                       int64_t index) override {
    if (places_.contains(name)) {
      return CheckpointReader::ReadSlice(name, index);
    }
    return reader_->ReadSlice(name, index);
  }
  const nlohmann::json& config() const override { return reader_->config(); }
  const nlohmann::json& metadata() const override {
    return reader_->metadata();
  }
  const std::map<std::string, std::string>& companions() const override {
    return reader_->companions();
  }
  absl::StatusOr<std::string> Digest() override { return reader_->Digest(); }

 private:
  absl::Status SplitLayer(const std::string& prefix);
  void AddPart(const std::string& name, const Place& place,
               const TensorInfo& fused);
  void RenameRouter(const std::string& prefix);

  const std::unique_ptr<CheckpointReader> reader_;
  const ExpertNames& names_;
  // Constant after Split.
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, Place> places_;
};

absl::Status SplitReader::Split() {
  for (const auto& [name, info] : reader_->tensors()) {
    absl::string_view prefix = name;
    if (!absl::ConsumeSuffix(&prefix, kFusedGateUp)) continue;
    RETURN_IF_ERROR(SplitLayer(std::string(prefix)));
  }
  return absl::OkStatus();
}

// [experts, 2 x width, hidden] and [experts, hidden, width]: the shapes of
// transposed storage do not fit together so.
bool Fit(const std::vector<int64_t>& gate_up,
         const std::vector<int64_t>& down) {
  if (gate_up.size() != 3 || down.size() != 3) return false;
  for (const int64_t size : down) {
    if (size < 1) return false;
  }
  return gate_up[0] == down[0] && down[0] <= kMaxExperts &&
         gate_up[1] == 2 * down[2] && gate_up[2] == down[1];
}

absl::Status SplitReader::SplitLayer(const std::string& prefix) {
  const std::string gate_up_name = absl::StrCat(prefix, kFusedGateUp);
  const std::string down_name = absl::StrCat(prefix, kFusedDown);
  const auto found = reader_->tensors().find(down_name);
  if (found == reader_->tensors().end()) return TensorMissing(down_name);
  const TensorInfo& down = found->second;
  const TensorInfo& gate_up = reader_->tensors().at(gate_up_name);
  if (!Fit(gate_up.shape, down.shape)) {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "EXPERTS_LAYOUT",
        absl::StrCat("the fused experts of ", prefix,
                     " are not [experts, 2 x width, hidden] and [experts, "
                     "hidden, width]"),
        {{"tensor", gate_up_name}});
  }
  const int64_t width = down.shape[2];
  for (int64_t e = 0; e < down.shape[0]; ++e) {
    const std::string expert =
        absl::StrCat(prefix, names_.layer, ".experts.", e, ".");
    AddPart(expert + names_.gate, {gate_up_name, e, 0, width}, gate_up);
    AddPart(expert + names_.up, {gate_up_name, e, width, width}, gate_up);
    AddPart(expert + names_.down, {down_name, e, 0, down.shape[1]}, down);
  }
  tensors_.erase(gate_up_name);
  tensors_.erase(down_name);
  RenameRouter(prefix);
  return absl::OkStatus();
}

void SplitReader::AddPart(const std::string& name, const Place& place,
                          const TensorInfo& fused) {
  const std::string full = absl::StrCat(name, ".weight");
  places_[full] = place;
  tensors_[full] = {.dtype = fused.dtype,
                    .shape = {place.rows, fused.shape[2]},
                    .size_bytes = fused.size_bytes / fused.shape[0] /
                                  fused.shape[1] * place.rows};
}

void SplitReader::RenameRouter(const std::string& prefix) {
  const std::string stored = absl::StrCat(prefix, kFusedLayer, kRouter);
  const std::string name = absl::StrCat(prefix, names_.layer, kRouter);
  const auto found = tensors_.find(stored);
  if (name == stored || found == tensors_.end()) return;
  places_[name].stored = stored;
  tensors_[name] = found->second;
  tensors_.erase(found);
}

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointReader>> SplitFusedExperts(
    std::unique_ptr<CheckpointReader> reader) {
  const ExpertNames* names = FindNames(reader->config());
  if (names == nullptr) return reader;
  auto split = std::make_unique<SplitReader>(std::move(reader), *names);
  RETURN_IF_ERROR(split->Split());
  return split;
}

}  // namespace quantd::checkpoints
