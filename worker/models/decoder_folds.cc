// SPDX-License-Identifier: Apache-2.0
#include "worker/models/decoder_folds.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "worker/models/block_plan.h"

namespace quantd::models {
namespace {

constexpr absl::string_view kWeight = ".weight";
constexpr absl::string_view kBias = ".bias";

// The norms in front of attention and of the feed-forward layer.
std::string InputNorm(int64_t index) {
  return absl::StrCat(BlockPrefix(index), "input_layernorm", kWeight);
}
std::string FeedForwardNorm(int64_t index) {
  return absl::StrCat(BlockPrefix(index), "post_attention_layernorm", kWeight);
}

std::vector<std::string> NamesOf(const std::vector<LinearPlan>& plans) {
  std::vector<std::string> names;
  for (const LinearPlan& plan : plans) names.push_back(plan.name);
  return names;
}

// Everything that reads the feed-forward norm: routers as well.
std::vector<std::string> FeedForwardReaders(
    const Shape& shape, int64_t index, const std::vector<LinearPlan>& gate_up) {
  std::vector<std::string> names = NamesOf(gate_up);
  if (!IsSparse(shape, index)) return names;
  names.emplace_back(absl::StripSuffix(RouterName(shape, index), kWeight));
  if (shape.mixture.shared_intermediate > 0) {
    names.emplace_back(
        absl::StripSuffix(SharedGateName(shape, index), kWeight));
  }
  return names;
}

// The rows that `producer` makes, read by `consumer` alone.
ScaleFold RowFold(const LinearPlan& producer, const LinearPlan& consumer) {
  ScaleFold fold;
  fold.producers = {absl::StrCat(producer.name, kWeight)};
  if (producer.bias) {
    fold.producers.push_back(absl::StrCat(producer.name, kBias));
  }
  fold.consumers = {consumer.name};
  fold.channels = producer.out_features;
  fold.head_size = producer.out_features;
  return fold;
}

ScaleFold NormFold(const std::string& norm, std::vector<std::string> consumers,
                   int64_t hidden) {
  return {.from_norm = true,
          .producers = {norm},
          .consumers = std::move(consumers),
          .channels = hidden,
          .head_size = hidden};
}

// Values that are cut to a range commute with no scale and no rotation.
bool ValuesAreLinear(const Shape& shape) { return shape.q_k_v_clip == 0; }

}  // namespace

at::Tensor ScaleFold::Spread(const at::Tensor& per_channel) const {
  return per_channel.view({-1, 1, head_size})
      .expand({-1, repeats, head_size})
      .reshape({-1});
}

at::Tensor ScaleFold::Gather(const at::Tensor& per_feature) const {
  return per_feature.view({-1, repeats, head_size})
      .transpose(1, 2)
      .reshape({channels, repeats});
}

// The gate's activation is not homogeneous: only `up` can take a scale.
BlockFolds PlanFolds(const Shape& shape, int64_t index) {
  const std::vector<std::vector<LinearPlan>> plan = PlanBlock(shape, index);
  const std::vector<LinearPlan>& qkv = plan[kQkv];
  BlockFolds folds;
  folds.scales.push_back(
      NormFold(InputNorm(index), NamesOf(qkv), shape.hidden));
  if (ValuesAreLinear(shape)) {
    ScaleFold values = RowFold(qkv[2], plan[kOutput][0]);
    values.head_size = shape.head_dim;
    values.repeats = shape.heads / shape.kv_heads;
    folds.scales.push_back(std::move(values));
  }
  folds.scales.push_back(
      NormFold(FeedForwardNorm(index),
               FeedForwardReaders(shape, index, plan[kGateUp]), shape.hidden));
  // Gates and up projections by turns.
  for (size_t i = 0; i < plan[kDown].size(); ++i) {
    folds.scales.push_back(RowFold(plan[kGateUp][2 * i + 1], plan[kDown][i]));
  }
  folds.score_linears = {qkv[0].name, qkv[1].name};
  return folds;
}

RotationPlan PlanRotation(const Shape& shape, bool tied) {
  RotationPlan rotation;
  rotation.embedding = "model.embed_tokens.weight";
  rotation.head = "lm_head.weight";
  rotation.tied = tied;
  rotation.hidden = shape.hidden;
  for (int64_t i = 0; i < shape.layers; ++i) {
    const std::vector<std::vector<LinearPlan>> plan = PlanBlock(shape, i);
    const std::string& output = plan[kOutput][0].name;
    rotation.writers.push_back(output);
    for (const LinearPlan& down : plan[kDown]) {
      rotation.writers.push_back(down.name);
      rotation.down_projections.push_back(down.name);
    }
    rotation.norms.push_back({InputNorm(i), NamesOf(plan[kQkv])});
    rotation.norms.push_back(
        {FeedForwardNorm(i), FeedForwardReaders(shape, i, plan[kGateUp])});
    if (ValuesAreLinear(shape)) {
      rotation.values.push_back({plan[kQkv][2].name, output, shape.head_dim});
    }
  }
  rotation.norms.push_back({"model.norm.weight", {"lm_head"}});
  return rotation;
}

}  // namespace quantd::models
