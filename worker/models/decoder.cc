// SPDX-License-Identifier: Apache-2.0
#include "worker/models/decoder.h"

#include <ATen/ops/embedding.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "spdlog/spdlog.h"
#include "worker/models/block_plan.h"
#include "worker/models/decoder_block.h"
#include "worker/models/decoder_folds.h"
#include "worker/models/weights.h"

namespace quantd::models {
namespace {

constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kFinalNorm[] = "model.norm.weight";
constexpr char kHead[] = "lm_head";
constexpr char kHeadWeight[] = "lm_head.weight";

class Decoder : public Model {
 public:
  Decoder(std::string family, Shape shape, BlockSource source)
      : family_(std::move(family)), shape_(std::move(shape)), source_(source) {}

  // What is wrong with the checkpoint before a linear is read.
  absl::Status Check();

  const std::string& family() const override { return family_; }
  int64_t num_blocks() const override { return shape_.layers; }
  int64_t hidden_size() const override { return shape_.hidden; }
  int64_t vocabulary_size() const override { return shape_.vocab; }
  int64_t context_length() const override { return shape_.context; }
  std::vector<LinearShape> BlockLinears(int64_t block) const override;
  std::vector<std::string> RouterLinears(int64_t block) const override {
    return PlanRouters(shape_, block);
  }
  int64_t widest_input() const override { return WidestInput(shape_); }
  LinearShape HeadShape() const override {
    return {kHead, shape_.vocab, shape_.hidden};
  }
  bool head_is_tied() const override { return tied_; }

  absl::StatusOr<std::unique_ptr<Block>> LoadBlock(
      int64_t index, int64_t sequence_length) override;
  absl::StatusOr<at::Tensor> Embed(const at::Tensor& ids) override;
  absl::StatusOr<at::Tensor> FinalNorm(const at::Tensor& hidden) override;
  absl::StatusOr<std::unique_ptr<Linear>> LoadHead() override;
  int64_t stored_bytes() const override;
  BlockFolds Folds(int64_t block) const override {
    return PlanFolds(shape_, block);
  }
  absl::StatusOr<RotationPlan> Rotation() const override {
    return PlanRotation(shape_, tied_);
  }

 private:
  absl::Status FindHead();
  absl::StatusOr<bool> HeadEqualsEmbedding();
  std::vector<int64_t> MatrixShape() const {
    return {shape_.vocab, shape_.hidden};
  }

  const std::string family_;
  const Shape shape_;
  const BlockSource source_;
  bool tied_ = false;
  // Where the embedding is: kEmbedding, or the head that stands for it.
  std::string embedding_name_;
  // In its stored dtype on the CPU; kept between calls of Embed until a block
  // is loaded, when its memory is needed.
  at::Tensor embedding_;
  at::Tensor final_norm_;
};

absl::Status Decoder::Check() {
  RETURN_IF_ERROR(FindHead());
  RETURN_IF_ERROR(
      CheckWeightShape(source_.reader, embedding_name_, MatrixShape()));
  RETURN_IF_ERROR(
      CheckWeightShape(source_.reader, kFinalNorm, {shape_.hidden}));
  for (int64_t i = 0; i < shape_.layers; ++i) {
    for (const auto& [name, shape] : PlanBlockTensors(shape_, i)) {
      RETURN_IF_ERROR(CheckWeightShape(source_.reader, name, shape));
    }
  }
  return absl::OkStatus();
}

// Configs of the wild say "tied" with and without reason: tensors that are
// there and differ are believed more.
absl::Status Decoder::FindHead() {
  const bool has_embedding = !StoredName(source_.reader, kEmbedding).empty();
  const bool has_head = !StoredName(source_.reader, kHeadWeight).empty();
  embedding_name_ = kEmbedding;
  if (!shape_.tied) return absl::OkStatus();
  tied_ = true;
  if (!has_embedding && has_head) embedding_name_ = kHeadWeight;
  if (!has_embedding || !has_head) return absl::OkStatus();
  ASSIGN_OR_RETURN(tied_, HeadEqualsEmbedding());
  if (!tied_) {
    spdlog::warn(
        "the config ties the head to the embedding, but the checkpoint has a "
        "head of its own that differs; it is used");
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Decoder::HeadEqualsEmbedding() {
  ASSIGN_OR_RETURN(const at::Tensor embedding,
                   source_.reader.Read(StoredName(source_.reader, kEmbedding)));
  ASSIGN_OR_RETURN(const at::Tensor head, source_.reader.Read(StoredName(
                                              source_.reader, kHeadWeight)));
  return embedding.scalar_type() == head.scalar_type() &&
         embedding.sizes() == head.sizes() &&
         std::memcmp(embedding.const_data_ptr(), head.const_data_ptr(),
                     head.nbytes()) == 0;
}

std::vector<LinearShape> Decoder::BlockLinears(int64_t block) const {
  std::vector<LinearShape> shapes;
  for (const auto& stage : PlanBlock(shape_, block)) {
    for (const LinearPlan& plan : stage) {
      shapes.push_back({plan.name, plan.out_features, plan.in_features});
    }
  }
  return shapes;
}

absl::StatusOr<std::unique_ptr<Block>> Decoder::LoadBlock(
    int64_t index, int64_t sequence_length) {
  embedding_ = at::Tensor();
  return LoadDecoderBlock(shape_, index, sequence_length, source_);
}

absl::StatusOr<at::Tensor> Decoder::Embed(const at::Tensor& ids) {
  const at::Tensor host_ids = ids.cpu();
  if (host_ids.numel() > 0 &&
      (host_ids.min().item<int64_t>() < 0 ||
       host_ids.max().item<int64_t>() >= shape_.vocab)) {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "TOKEN_OUT_OF_RANGE",
        absl::StrCat("a token id is outside of the model's vocabulary of ",
                     shape_.vocab, "; the tokenizer belongs to another model"));
  }
  if (!embedding_.defined()) {
    ASSIGN_OR_RETURN(embedding_, source_.reader.Read(StoredName(
                                     source_.reader, embedding_name_)));
    if (!at::isFloatingType(embedding_.scalar_type())) {
      embedding_ = at::Tensor();
      return base::MakeError(absl::StatusCode::kInvalidArgument,
                             "TENSOR_NOT_FLOAT",
                             absl::StrCat("tensor \"", embedding_name_,
                                          "\" is not floating point"));
    }
  }
  return at::embedding(embedding_, host_ids).to(at::kFloat).to(source_.device);
}

absl::StatusOr<at::Tensor> Decoder::FinalNorm(const at::Tensor& hidden) {
  if (!final_norm_.defined()) {
    ASSIGN_OR_RETURN(final_norm_, ReadWeight(source_.reader, kFinalNorm,
                                             {shape_.hidden}, source_.device));
  }
  return RmsNorm(hidden, final_norm_, shape_.norm_eps);
}

absl::StatusOr<std::unique_ptr<Linear>> Decoder::LoadHead() {
  if (!tied_) {
    return source_.loader.Load(kHead, shape_.vocab, shape_.hidden,
                               /*has_bias=*/false);
  }
  ASSIGN_OR_RETURN(at::Tensor weight,
                   ReadWeight(source_.reader, embedding_name_, MatrixShape(),
                              source_.device));
  return MakeDenseLinear(std::move(weight), at::Tensor());
}

int64_t Decoder::stored_bytes() const {
  const auto& tensors = source_.reader.tensors();
  int64_t bytes = 0;
  const auto add = [&](const std::string& name) {
    const std::string stored = StoredName(source_.reader, name);
    if (!stored.empty()) bytes += tensors.at(stored).size_bytes;
  };
  add(embedding_name_);
  add(kFinalNorm);
  if (!tied_) add(kHeadWeight);
  for (int64_t i = 0; i < shape_.layers; ++i) {
    for (const auto& [name, shape] : PlanBlockTensors(shape_, i)) add(name);
    for (const auto& stage : PlanBlock(shape_, i)) {
      for (const LinearPlan& plan : stage) {
        add(plan.name + ".weight");
        if (plan.bias) add(plan.name + ".bias");
      }
    }
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeDecoder(
    const FamilyTraits& family, checkpoints::CheckpointReader& reader,
    LinearLoader& loader, at::Device device) {
  ASSIGN_OR_RETURN(Shape shape, ReadShape(reader.config(), family));
  auto decoder = std::make_unique<Decoder>(
      family.id, std::move(shape),
      BlockSource{.reader = reader, .loader = loader, .device = device});
  RETURN_IF_ERROR(decoder->Check());
  return decoder;
}

}  // namespace quantd::models
