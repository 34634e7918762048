// SPDX-License-Identifier: Apache-2.0
#include "worker/models/decoder_block.h"

#include <ATen/ops/rsqrt.h>

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/status_macros.h"
#include "spdlog/spdlog.h"
#include "worker/models/attention.h"
#include "worker/models/weights.h"

namespace quantd::models {
namespace {

enum StageIndex { kQkv, kOutput, kGateUp, kDown };

std::string BlockPrefix(int64_t index) {
  return absl::StrCat("model.layers.", index, ".");
}

class DecoderBlock : public Block {
 public:
  DecoderBlock(const Shape& shape, int64_t index, at::Device device)
      : shape_(shape),
        prefix_(BlockPrefix(index)),
        attention_{
            .scale = 1.0 / std::sqrt(static_cast<double>(shape.head_dim)),
            .window = shape.windows[static_cast<size_t>(index)]},
        rope_(shape.rope, shape.head_dim, shape.context, device) {}

  absl::Status Load(int64_t index, const BlockSource& source);
  void PrepareRope(int64_t tokens) { rope_.For(tokens); }

  const std::vector<Stage>& stages() const override { return stages_; }
  const Linear& linear(const std::string& name) const override {
    return *Find(name);
  }
  void Replace(const std::string& name,
               std::unique_ptr<Linear> linear) override {
    Find(name);
    linears_[name] = std::move(linear);
  }
  void Begin(SequenceState* state) const override {
    state->input = Norm("input_layernorm", state->residual);
  }
  void Apply(int64_t stage, SequenceState* state) const override;

 private:
  // Asking for a linear that the block does not have is a bug.
  const std::unique_ptr<Linear>& Find(const std::string& name) const {
    const auto found = linears_.find(name);
    if (found == linears_.end()) {
      spdlog::critical("block {} has no linear {}", prefix_, name);
      abort();
    }
    return found->second;
  }
  at::Tensor Run(int64_t stage, size_t position, const at::Tensor& x) const {
    return Find(stages_[static_cast<size_t>(stage)].linears[position])
        ->Apply(x);
  }
  at::Tensor Norm(const std::string& name, const at::Tensor& x) const {
    return RmsNorm(x, norms_.at(absl::StrCat(prefix_, name, ".weight")),
                   shape_.norm_eps);
  }
  // float32 [tokens, hidden] -> [tokens, heads, head_dim], normalised where the
  // family does, and rotated.
  at::Tensor Heads(const at::Tensor& x, int64_t heads, const char* norm) const;
  at::Tensor Attend(const at::Tensor& input) const;

  const Shape shape_;
  const std::string prefix_;
  const AttentionOptions attention_;
  const RopeTable rope_;
  std::vector<Stage> stages_;
  std::map<std::string, std::unique_ptr<Linear>> linears_;
  std::map<std::string, at::Tensor> norms_;
};

absl::Status DecoderBlock::Load(int64_t index, const BlockSource& source) {
  for (const auto& [name, shape] : PlanBlockNorms(shape_, index)) {
    ASSIGN_OR_RETURN(norms_[name],
                     ReadWeight(source.reader, name, shape, source.device));
  }
  for (const auto& plans : PlanBlock(shape_, index)) {
    Stage stage;
    for (const LinearPlan& plan : plans) {
      ASSIGN_OR_RETURN(linears_[plan.name],
                       source.loader.Load(plan.name, plan.out_features,
                                          plan.in_features, plan.bias));
      stage.linears.push_back(plan.name);
    }
    stages_.push_back(std::move(stage));
  }
  return absl::OkStatus();
}

at::Tensor DecoderBlock::Heads(const at::Tensor& x, int64_t heads,
                               const char* norm) const {
  const int64_t tokens = x.size(0);
  at::Tensor split = x.view({tokens, heads, shape_.head_dim});
  if (shape_.q_k_norm) split = Norm(norm, split);
  return Rotate(split, rope_.For(tokens));
}

at::Tensor DecoderBlock::Attend(const at::Tensor& input) const {
  const at::Tensor q =
      Heads(Run(kQkv, 0, input), shape_.heads, "self_attn.q_norm");
  const at::Tensor k =
      Heads(Run(kQkv, 1, input), shape_.kv_heads, "self_attn.k_norm");
  const at::Tensor v =
      Run(kQkv, 2, input)
          .view({input.size(0), shape_.kv_heads, shape_.head_dim});
  return CausalAttention(q, k, v, attention_);
}

void DecoderBlock::Apply(int64_t stage, SequenceState* state) const {
  const at::Tensor input = std::exchange(state->input, at::Tensor());
  // The residual is replaced and not changed: callers may share its tensor.
  switch (stage) {
    case kQkv:
      state->input = Attend(input);
      break;
    case kOutput:
      state->residual = state->residual.add(Run(kOutput, 0, input));
      state->input = Norm("post_attention_layernorm", state->residual);
      break;
    case kGateUp:
      state->input = shape_.activation(Run(kGateUp, 0, input))
                         .mul_(Run(kGateUp, 1, input));
      break;
    case kDown:
      state->residual = state->residual.add(Run(kDown, 0, input));
      break;
    default:
      spdlog::critical("block {} has no stage {}", prefix_, stage);
      abort();
  }
}

}  // namespace

std::vector<std::vector<LinearPlan>> PlanBlock(const Shape& shape,
                                               int64_t index) {
  const std::string attention = BlockPrefix(index) + "self_attn.";
  const std::string mlp = BlockPrefix(index) + "mlp.";
  const int64_t hidden = shape.hidden;
  const int64_t q = shape.heads * shape.head_dim;
  const int64_t kv = shape.kv_heads * shape.head_dim;
  return {{{attention + "q_proj", q, hidden, shape.q_k_v_bias},
           {attention + "k_proj", kv, hidden, shape.q_k_v_bias},
           {attention + "v_proj", kv, hidden, shape.q_k_v_bias}},
          {{attention + "o_proj", hidden, q, shape.o_bias}},
          {{mlp + "gate_proj", shape.intermediate, hidden, shape.mlp_bias},
           {mlp + "up_proj", shape.intermediate, hidden, shape.mlp_bias}},
          {{mlp + "down_proj", hidden, shape.intermediate, shape.mlp_bias}}};
}

std::map<std::string, std::vector<int64_t>> PlanBlockNorms(const Shape& shape,
                                                           int64_t index) {
  const std::string prefix = BlockPrefix(index);
  std::map<std::string, std::vector<int64_t>> norms = {
      {prefix + "input_layernorm.weight", {shape.hidden}},
      {prefix + "post_attention_layernorm.weight", {shape.hidden}}};
  if (shape.q_k_norm) {
    norms[prefix + "self_attn.q_norm.weight"] = {shape.head_dim};
    norms[prefix + "self_attn.k_norm.weight"] = {shape.head_dim};
  }
  return norms;
}

absl::StatusOr<std::unique_ptr<Block>> LoadDecoderBlock(
    const Shape& shape, int64_t index, int64_t sequence_length,
    const BlockSource& source) {
  auto block = std::make_unique<DecoderBlock>(shape, index, source.device);
  RETURN_IF_ERROR(block->Load(index, source));
  block->PrepareRope(sequence_length);
  return block;
}

at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor mean_square = x.square().mean(-1, /*keepdim=*/true);
  return x.mul(at::rsqrt(mean_square.add(eps))).mul_(weight);
}

}  // namespace quantd::models
