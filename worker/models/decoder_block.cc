// SPDX-License-Identifier: Apache-2.0
#include "worker/models/decoder_block.h"

#include <ATen/ops/rsqrt.h>

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/status_macros.h"
#include "spdlog/spdlog.h"
#include "worker/models/attention.h"
#include "worker/models/block_plan.h"
#include "worker/models/sparse_layer.h"
#include "worker/models/weights.h"

namespace quantd::models {
namespace {

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
  void RoundKeysAndValues(formats::KvRounding rounding) override {
    kv_rounding_ = std::move(rounding);
  }
  void Begin(SequenceState* state) const override {
    state->input = Norm("input_layernorm", state->residual);
  }
  std::vector<at::Tensor> Inputs(int64_t stage,
                                 const SequenceState& state) const override;
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
    return RmsNorm(x, tensors_.at(absl::StrCat(prefix_, name, ".weight")),
                   shape_.norm_eps);
  }
  // What the feed-forward layer reads.
  at::Tensor FeedForwardInput(const at::Tensor& residual) const {
    return Norm("post_attention_layernorm", residual);
  }
  // float32 [tokens, hidden] -> [tokens, heads, head_dim], normalised and
  // clipped where the family does, and rotated.
  at::Tensor Heads(const at::Tensor& x, int64_t heads, const char* norm) const;
  at::Tensor Attend(const at::Tensor& input) const;
  // `heads` [tokens, heads, head_dim] as the KV cache gives them back.
  at::Tensor Cached(const at::Tensor& heads,
                    const formats::RowRounding& rounding) const {
    if (rounding == nullptr) return heads;
    return rounding(heads.reshape({-1, shape_.head_dim})).view(heads.sizes());
  }
  // What the stage's input is split into before anything is rotated.
  std::vector<at::Tensor> PlainInputs(int64_t stage,
                                      const SequenceState& state) const;
  at::Tensor Clip(const at::Tensor& x) const {
    return x.clamp(-shape_.q_k_v_clip, shape_.q_k_v_clip);
  }
  at::Tensor GateUp(const at::Tensor& input) const;
  at::Tensor Down(const SequenceState& state, const at::Tensor& input) const;

  const Shape shape_;
  const std::string prefix_;
  const AttentionOptions attention_;
  const RopeTable rope_;
  std::vector<Stage> stages_;
  std::map<std::string, std::unique_ptr<Linear>> linears_;
  std::map<std::string, at::Tensor> tensors_;
  // Empty where keys and values are left alone.
  formats::KvRounding kv_rounding_;
  // Null where the layer is dense.
  std::unique_ptr<SparseLayer> sparse_;
};

absl::Status DecoderBlock::Load(int64_t index, const BlockSource& source) {
  kv_rounding_ = source.loader.KvRounding();
  for (const auto& [name, shape] : PlanBlockTensors(shape_, index)) {
    ASSIGN_OR_RETURN(tensors_[name],
                     ReadWeight(source.reader, name, shape, source.device));
  }
  if (IsSparse(shape_, index)) {
    sparse_ = std::make_unique<SparseLayer>(
        shape_, tensors_[RouterName(shape_, index)],
        shape_.mixture.shared_intermediate > 0
            ? tensors_[SharedGateName(shape_, index)]
            : at::Tensor());
  }
  for (const auto& plans : PlanBlock(shape_, index)) {
    Stage stage;
    for (const LinearPlan& plan : plans) {
      ASSIGN_OR_RETURN(linears_[plan.name],
                       source.loader.Load(plan.name, plan.out_features,
                                          plan.in_features, plan.bias));
      stage.linears.push_back(plan.name);
      stage.input_of.push_back(plan.input);
    }
    stages_.push_back(std::move(stage));
  }
  return absl::OkStatus();
}

at::Tensor DecoderBlock::Heads(const at::Tensor& x, int64_t heads,
                               const char* norm) const {
  const int64_t tokens = x.size(0);
  at::Tensor flat = x;
  if (shape_.q_k_norm == HeadNorm::kAllHeads) flat = Norm(norm, flat);
  if (shape_.q_k_v_clip > 0) flat = Clip(flat);
  at::Tensor split = flat.view({tokens, heads, shape_.head_dim});
  if (shape_.q_k_norm == HeadNorm::kEachHead) split = Norm(norm, split);
  return Rotate(split, rope_.For(tokens));
}

at::Tensor DecoderBlock::Attend(const at::Tensor& input) const {
  const at::Tensor q =
      Heads(Run(kQkv, 0, input), shape_.heads, "self_attn.q_norm");
  const at::Tensor k =
      Cached(Heads(Run(kQkv, 1, input), shape_.kv_heads, "self_attn.k_norm"),
             kv_rounding_.keys);
  at::Tensor v = Run(kQkv, 2, input);
  if (shape_.q_k_v_clip > 0) v = Clip(v);
  v = Cached(v.view({input.size(0), shape_.kv_heads, shape_.head_dim}),
             kv_rounding_.values);
  return CausalAttention(q, k, v, attention_);
}

at::Tensor DecoderBlock::GateUp(const at::Tensor& input) const {
  if (sparse_ == nullptr) {
    return shape_.activation(Run(kGateUp, 0, input))
        .mul_(Run(kGateUp, 1, input));
  }
  return sparse_->GateUp(input, [this](size_t place, const at::Tensor& rows) {
    return Run(kGateUp, place, rows);
  });
}

at::Tensor DecoderBlock::Down(const SequenceState& state,
                              const at::Tensor& input) const {
  if (sparse_ == nullptr) return Run(kDown, 0, input);
  return sparse_->Down(FeedForwardInput(state.residual), input,
                       [this](size_t place, const at::Tensor& rows) {
                         return Run(kDown, place, rows);
                       });
}

std::vector<at::Tensor> DecoderBlock::Inputs(int64_t stage,
                                             const SequenceState& state) const {
  std::vector<at::Tensor> inputs = PlainInputs(stage, state);
  const Stage& here = stages_[static_cast<size_t>(stage)];
  for (size_t i = 0; i < here.linears.size(); ++i) {
    const bool first = i == 0 || here.input_of[i] != here.input_of[i - 1];
    const numerics::Rotation* rotation =
        Find(here.linears[i])->input_rotation();
    if (!first || rotation == nullptr) continue;
    at::Tensor& rows = inputs[static_cast<size_t>(here.input_of[i])];
    rows = rotation->Apply(rows);
  }
  return inputs;
}

std::vector<at::Tensor> DecoderBlock::PlainInputs(
    int64_t stage, const SequenceState& state) const {
  if (sparse_ != nullptr && stage == kGateUp) {
    return sparse_->GateUpInputs(state.input);
  }
  if (sparse_ != nullptr && stage == kDown) {
    return sparse_->DownInputs(FeedForwardInput(state.residual), state.input);
  }
  return {state.input};
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
      state->input = FeedForwardInput(state->residual);
      break;
    case kGateUp:
      state->input = GateUp(input);
      break;
    case kDown:
      state->residual = state->residual.add(Down(*state, input));
      break;
    default:
      spdlog::critical("block {} has no stage {}", prefix_, stage);
      abort();
  }
}

}  // namespace

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
