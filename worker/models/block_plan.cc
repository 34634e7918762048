// SPDX-License-Identifier: Apache-2.0
#include "worker/models/block_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace quantd::models {
namespace {

constexpr char kWeight[] = ".weight";
constexpr char kRouter[] = "gate";
constexpr char kSharedGate[] = "shared_expert_gate";
constexpr char kSharedExpert[] = "shared_expert";
// What newer versions of transformers call the layer, whatever the checkpoint
// does.
constexpr char kCommonLayer[] = "mlp";

std::string SparsePrefix(const Shape& shape, int64_t index) {
  return absl::StrCat(BlockPrefix(index), shape.mixture.names.layer, ".");
}

// Gate and up projections of one feed-forward layer into `gate_up`, its down
// projection into `down`.
void AddFeedForward(const std::string& prefix, const ExpertNames& names,
                    const LinearPlan& gate, std::vector<LinearPlan>* gate_up,
                    std::vector<LinearPlan>* down) {
  LinearPlan plan = gate;
  plan.name = absl::StrCat(prefix, names.gate);
  gate_up->push_back(plan);
  plan.name = absl::StrCat(prefix, names.up);
  gate_up->push_back(plan);
  std::swap(plan.out_features, plan.in_features);
  plan.name = absl::StrCat(prefix, names.down);
  down->push_back(plan);
}

void AddExperts(const Shape& shape, int64_t index,
                std::vector<LinearPlan>* gate_up,
                std::vector<LinearPlan>* down) {
  const Mixture& mixture = shape.mixture;
  const std::string prefix = SparsePrefix(shape, index);
  LinearPlan gate{.out_features = mixture.intermediate,
                  .in_features = shape.hidden};
  for (; gate.input < mixture.experts; ++gate.input) {
    AddFeedForward(absl::StrCat(prefix, "experts.", gate.input, "."),
                   mixture.names, gate, gate_up, down);
  }
  if (mixture.shared_intermediate == 0) return;
  gate.out_features = mixture.shared_intermediate;
  AddFeedForward(absl::StrCat(prefix, kSharedExpert, "."), mixture.names, gate,
                 gate_up, down);
}

}  // namespace

std::string BlockPrefix(int64_t index) {
  return absl::StrCat("model.layers.", index, ".");
}

bool IsSparse(const Shape& shape, int64_t index) {
  const auto& sparse = shape.mixture.sparse;
  const auto i = static_cast<size_t>(index);
  return i < sparse.size() && sparse[i];
}

std::vector<std::vector<LinearPlan>> PlanBlock(const Shape& shape,
                                               int64_t index) {
  const std::string attention = BlockPrefix(index) + "self_attn.";
  const int64_t hidden = shape.hidden;
  const int64_t q = shape.heads * shape.head_dim;
  const int64_t kv = shape.kv_heads * shape.head_dim;
  std::vector<std::vector<LinearPlan>> stages = {
      {{attention + "q_proj", q, hidden, shape.q_k_v_bias},
       {attention + "k_proj", kv, hidden, shape.q_k_v_bias},
       {attention + "v_proj", kv, hidden, shape.q_k_v_bias}},
      {{attention + "o_proj", hidden, q, shape.o_bias}},
      {},
      {}};
  if (IsSparse(shape, index)) {
    AddExperts(shape, index, &stages[kGateUp], &stages[kDown]);
  } else {
    AddFeedForward(BlockPrefix(index) + "mlp.", ExpertNames(),
                   {.out_features = shape.intermediate,
                    .in_features = hidden,
                    .bias = shape.mlp_bias},
                   &stages[kGateUp], &stages[kDown]);
  }
  return stages;
}

std::string RouterName(const Shape& shape, int64_t index) {
  return absl::StrCat(SparsePrefix(shape, index), kRouter, kWeight);
}

std::string SharedGateName(const Shape& shape, int64_t index) {
  return absl::StrCat(SparsePrefix(shape, index), kSharedGate, kWeight);
}

std::map<std::string, std::vector<int64_t>> PlanBlockTensors(const Shape& shape,
                                                             int64_t index) {
  const std::string prefix = BlockPrefix(index);
  std::map<std::string, std::vector<int64_t>> tensors = {
      {prefix + "input_layernorm.weight", {shape.hidden}},
      {prefix + "post_attention_layernorm.weight", {shape.hidden}}};
  if (shape.q_k_norm != HeadNorm::kNone) {
    const bool all = shape.q_k_norm == HeadNorm::kAllHeads;
    tensors[prefix + "self_attn.q_norm.weight"] = {shape.head_dim *
                                                   (all ? shape.heads : 1)};
    tensors[prefix + "self_attn.k_norm.weight"] = {shape.head_dim *
                                                   (all ? shape.kv_heads : 1)};
  }
  if (!IsSparse(shape, index)) return tensors;
  tensors[RouterName(shape, index)] = {shape.mixture.experts, shape.hidden};
  if (shape.mixture.shared_intermediate > 0) {
    tensors[SharedGateName(shape, index)] = {1, shape.hidden};
  }
  return tensors;
}

std::vector<std::string> PlanRouters(const Shape& shape, int64_t index) {
  if (!IsSparse(shape, index)) return {};
  std::vector<std::string> names = {SparsePrefix(shape, index) + kRouter};
  if (shape.mixture.names.layer != kCommonLayer) {
    names.push_back(
        absl::StrCat(BlockPrefix(index), kCommonLayer, ".", kRouter));
  }
  if (shape.mixture.shared_intermediate > 0) {
    names.push_back(SparsePrefix(shape, index) + kSharedGate);
  }
  return names;
}

int64_t WidestInput(const Shape& shape) {
  const Mixture& mixture = shape.mixture;
  int64_t widest = std::max(shape.hidden, shape.heads * shape.head_dim);
  for (int64_t i = 0; i < shape.layers; ++i) {
    widest = std::max(widest, IsSparse(shape, i)
                                  ? mixture.chosen * mixture.intermediate +
                                        mixture.shared_intermediate
                                  : shape.intermediate);
  }
  return widest;
}

}  // namespace quantd::models
