// SPDX-License-Identifier: Apache-2.0
// QuaRot: the residual stream and the values of each head are rotated by
// randomized Hadamard matrices, which spreads outliers over all channels
// (Ashkboos et al., QuaRot, arXiv:2404.00456, section 4, stages 1a and 1b).
// These rotations are folded into weights: any program that runs the model runs
// the rotated one. Where it is asked for, inputs are rotated while the model
// runs as well (stages 1c and 1d).
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>

#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/catalog_rules.h"
#include "worker/models/weights.h"
#include "worker/numerics/hadamard.h"
#include "worker/numerics/rotation.h"
#include "worker/transforms/transform.h"

namespace quantd::transforms {
namespace {

constexpr char kWeight[] = ".weight";
constexpr char kBias[] = ".bias";
// Values of `online`.
constexpr char kNone[] = "none";
constexpr char kDown[] = "down";
constexpr char kAll[] = "all";

// No layout of codes says that inputs are to be rotated.
v1::Requirement ExportTurnsBack(absl::string_view online) {
  v1::Requirement requirement;
  requirement.set_seam(v1::SEAM_EXPORT);
  requirement.set_property("rotated_inputs");
  requirement.set_when(absl::StrCat("online=", online));
  requirement.set_why(
      "weights are quantized for inputs that are rotated at run time, which "
      "programs that load this layout do not do");
  requirement.set_suggestion(
      "use export dequantized, which turns the weights back, or online=none");
  return requirement;
}

v1::ComponentEntry Describe() {
  v1::ComponentEntry entry;
  entry.set_seam(v1::SEAM_TRANSFORM);
  entry.set_id("quarot");
  entry.set_summary(
      "Rotates the residual stream and the values of each head by randomized "
      "Hadamard matrices, folded into the weights.");
  entry.set_when(
      "With 4-bit weights and activations, or whenever outliers spoil the "
      "grids of whole layers.");
  entry.set_reference(
      "Ashkboos et al., QuaRot, arXiv:2404.00456, section 4; "
      "docs/transforms/quarot.md");
  *entry.add_params() = spec::BoolParameter(
      "rotate_values", true,
      "Rotates the values of each head as well, between v_proj and o_proj.");
  *entry.add_params() = spec::StringParameter(
      "online", kNone, {kNone, kDown, kAll},
      "Which inputs are rotated at run time: none, those of down projections, "
      "or those of o_proj too.");
  *entry.add_requirements() = ExportTurnsBack(kDown);
  *entry.add_requirements() = ExportTurnsBack(kAll);
  entry.add_provides("function_preserving");
  // EditModel, and no block of its own.
  entry.add_provides(spec::kWholeModelProperty);
  return entry;
}

// The signs of diag(signs) H for each of so many runs of columns.
at::Tensor RandomSigns(int64_t runs, int64_t order, std::mt19937_64* bits) {
  at::Tensor signs = at::empty({runs, order}, at::kFloat);
  float* values = signs.mutable_data_ptr<float>();
  for (int64_t i = 0; i < signs.numel(); ++i) {
    values[i] = ((*bits)() >> 63) != 0 ? -1.0f : 1.0f;
  }
  return signs;
}

// Gathers the edits of one model.
class Rotation {
 public:
  Rotation(EditedReader& reader, uint64_t seed)
      : reader_(reader), bits_(seed) {}

  absl::Status Residual(const models::RotationPlan& plan);
  void Values(const models::ValueHeads& heads);
  absl::Status Finish() { return reader_.Add(edits_); }

 private:
  absl::Status FoldNorm(const models::NormUse& norm, const at::Tensor& signs);
  void Edits(const std::string& tensor, EditKind kind,
             const at::Tensor& operand) {
    edits_.push_back({tensor, kind, operand});
  }
  // Rows of the weight and, where there is one, of the bias.
  void RotateOutput(const std::string& module, const at::Tensor& signs) {
    Edits(module + kWeight, EditKind::kRotateRows, signs);
    if (!models::StoredName(reader_, module + kBias).empty()) {
      Edits(module + kBias, EditKind::kRotateRows, signs);
    }
  }

  EditedReader& reader_;
  std::mt19937_64 bits_;
  std::vector<Edit> edits_;
};

// W <- W diag(gain) Q, gain <- 1: what the consumers compute of a rotated
// stream, whose length the norm does not see change.
absl::Status Rotation::FoldNorm(const models::NormUse& norm,
                                const at::Tensor& signs) {
  ASSIGN_OR_RETURN(const at::Tensor gain,
                   reader_.ReadFloat(models::StoredName(reader_, norm.norm)));
  for (const std::string& module : norm.consumers) {
    Edits(module + kWeight, EditKind::kMultiplyColumns, gain);
    Edits(module + kWeight, EditKind::kRotateColumns, signs);
  }
  Edits(norm.norm, EditKind::kReplace, at::ones_like(gain));
  return absl::OkStatus();
}

absl::Status Rotation::Residual(const models::RotationPlan& plan) {
  const int64_t order = numerics::HadamardBlock(plan.hidden);
  const at::Tensor signs = RandomSigns(plan.hidden / order, order, &bits_);
  Edits(plan.embedding, EditKind::kRotateColumns, signs);
  for (const std::string& module : plan.writers) RotateOutput(module, signs);
  for (const models::NormUse& norm : plan.norms) {
    RETURN_IF_ERROR(FoldNorm(norm, signs));
  }
  return absl::OkStatus();
}

void Rotation::Values(const models::ValueHeads& heads) {
  // One matrix for all heads: queries share the values of a head.
  const int64_t order = numerics::HadamardBlock(heads.head_size);
  const at::Tensor signs = RandomSigns(1, order, &bits_);
  RotateOutput(heads.value, signs);
  Edits(heads.output + kWeight, EditKind::kRotateColumns, signs);
}

// The head must not be the embedding: only the embedding keeps its norm's gain.
absl::Status Untie(const models::RotationPlan& plan, EditedReader* reader) {
  if (!plan.tied) return absl::OkStatus();
  const bool has_embedding =
      !models::StoredName(*reader, plan.embedding).empty();
  const bool has_head = !models::StoredName(*reader, plan.head).empty();
  if (!has_head) RETURN_IF_ERROR(reader->Copy(plan.head, plan.embedding));
  if (!has_embedding) RETURN_IF_ERROR(reader->Copy(plan.embedding, plan.head));
  return absl::OkStatus();
}

absl::Status RotateInputs(const std::vector<std::string>& modules,
                          uint64_t seed, EditedReader* reader) {
  for (const std::string& module : modules) {
    const std::string tensor = models::StoredName(*reader, module + kWeight);
    if (tensor.empty()) {
      return base::MakeError(absl::StatusCode::kNotFound, "TENSOR_MISSING",
                             absl::StrCat("the checkpoint has no tensor \"",
                                          module, kWeight, "\""),
                             {{"tensor", module + kWeight}});
    }
    reader->RotateInput(module,
                        numerics::Rotation::Randomized(
                            reader->tensors().at(tensor).shape.back(), seed));
  }
  return absl::OkStatus();
}

class QuarotTransform : public Transform {
 public:
  explicit QuarotTransform(const spec::Params& params)
      : rotate_values_(params.GetBool("rotate_values")),
        online_(params.GetString("online")) {}

  Needs needs() const override { return Needs::kNoData; }

  absl::Status EditModel(const models::Model& model, uint64_t seed,
                         EditedReader* reader) const override {
    ASSIGN_OR_RETURN(const models::RotationPlan plan, model.Rotation());
    RETURN_IF_ERROR(Untie(plan, reader));
    reader->SetConfig("tie_word_embeddings", false);
    Rotation rotation(*reader, seed);
    RETURN_IF_ERROR(rotation.Residual(plan));
    if (rotate_values_) {
      for (const models::ValueHeads& heads : plan.values) {
        rotation.Values(heads);
      }
    }
    RETURN_IF_ERROR(rotation.Finish());
    if (online_ == kNone) return absl::OkStatus();
    return RotateInputs(online_ == kDown ? plan.down_projections : plan.writers,
                        seed, reader);
  }

 private:
  const bool rotate_values_;
  const std::string online_;
};

v1::Recipe Preset() {
  v1::Recipe recipe;
  recipe.add_transforms()->set_id("quarot");
  recipe.mutable_method()->set_id("gptq");
  // W4A4KV4 of section 5: weights by row, with the range of least error; tokens
  // by 0.9, heads by 0.95 of their range.
  v1::WeightFormat& weights = *recipe.mutable_weights();
  weights.set_format("int4");
  weights.set_group_size(-1);
  weights.set_symmetric(true);
  (*weights.mutable_params())["grid"].set_string_value("symmetric");
  (*weights.mutable_params())["clip"].set_string_value("mse");
  recipe.set_activations("int4");
  v1::ActivationRounding& rounding = *recipe.mutable_activation_rounding();
  rounding.set_clip_ratio(0.9);
  (*rounding.mutable_params())["grid"].set_string_value("symmetric");
  v1::KvCache& cache = *recipe.mutable_kv_cache();
  cache.set_format("int4");
  cache.set_group_size(-1);
  cache.set_asymmetric(true);
  cache.set_clip_ratio(0.95);
  return recipe;
}

}  // namespace

TransformEntry Quarot() {
  TransformEntry entry;
  entry.description = Describe();
  entry.preset = Preset();
  entry.make = [](const spec::Params& params) -> std::unique_ptr<Transform> {
    return std::make_unique<QuarotTransform>(params);
  };
  return entry;
}

}  // namespace quantd::transforms
