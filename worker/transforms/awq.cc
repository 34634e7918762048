// SPDX-License-Identifier: Apache-2.0
// AWQ: channels whose inputs are large get finer grids, by a scale per channel
// that is searched on a grid of exponents (Lin et al., AWQ, arXiv:2306.00978,
// section 3.2). The output error of a candidate is taken from the inputs' Gram
// matrix, so its cost does not depend on the number of tokens.
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones_like.h>

#include <algorithm>

#include "proto/base/log.h"
#include "proto/base/status_macros.h"
#include "worker/transforms/scale_fold.h"
#include "worker/transforms/transform.h"

namespace quantd::transforms {
namespace {

// Below this a scale is a division by nearly nothing; its inverse above.
constexpr double kSmallestScale = 1e-4;

v1::ComponentEntry Describe() {
  v1::ComponentEntry entry;
  entry.set_seam(v1::SEAM_TRANSFORM);
  entry.set_id("awq");
  entry.set_summary(
      "Scales channels by how large their inputs are, searching the strength "
      "that rounds each group of layers best.");
  entry.set_when(
      "Before rtn with 3 and 4 bits, when a few inputs are much larger than "
      "the others.");
  entry.set_reference(
      "Lin et al., AWQ, arXiv:2306.00978, section 3.2; docs/transforms/awq.md");
  *entry.add_params() = spec::IntParameter(
      "grid", 20, 1, 200, "Exponents that are tried: 0, 1/grid, 2/grid ...");
  *entry.add_params() = spec::BoolParameter(
      "duo", true,
      "Divides by the mean size of a channel's weights as well, to the power "
      "of one minus the exponent.");
  entry.add_provides("calibrated");
  entry.add_provides("function_preserving");
  return entry;
}

// float32 [in]: the mean over all rows of |w| over the largest of its group.
at::Tensor MeanWeight(const std::vector<Consumer>& consumers) {
  std::vector<at::Tensor> rows;
  for (const Consumer& consumer : consumers) {
    const at::Tensor magnitude = consumer.weight.abs();
    const int64_t in = magnitude.size(1);
    const int64_t width = std::min(consumer.spec->GroupSizeFor(in), in);
    std::vector<at::Tensor> groups;
    for (int64_t begin = 0; begin < in; begin += width) {
      const at::Tensor group =
          magnitude.narrow(1, begin, std::min(width, in - begin));
      groups.push_back(group.div(group.amax(1, true).clamp_min(1e-30)));
    }
    rows.push_back(at::cat(groups, 1));
  }
  return at::cat(rows, 0).mean(0).cpu();
}

class AwqTransform : public Transform {
 public:
  explicit AwqTransform(const spec::Params& params)
      : grid_(params.GetInt("grid")), duo_(params.GetBool("duo")) {}

  Needs needs() const override { return Needs::kGram; }
  absl::StatusOr<BlockEdits> FitBlock(
      const BlockProblem& problem,
      const base::CancelToken& cancel) const override;

 private:
  // The best scale of the grid, [channels]; undefined where leaving everything
  // alone is best.
  absl::StatusOr<at::Tensor> Search(const models::ScaleFold& fold,
                                    const std::vector<Consumer>& consumers,
                                    const base::CancelToken& cancel) const;

  const int64_t grid_;
  const bool duo_;
};

absl::StatusOr<at::Tensor> AwqTransform::Search(
    const models::ScaleFold& fold, const std::vector<Consumer>& consumers,
    const base::CancelToken& cancel) const {
  const at::Tensor mean = MeanInput(consumers);
  const at::Tensor x = fold.Gather(mean).mean(1);
  const at::Tensor w = fold.Gather(MeanWeight(consumers)).mean(1);
  const at::Tensor live = x.gt(0).logical_and_(w.gt(0));
  // Not a point of the grid: with `duo` even exponent 0 changes something.
  ASSIGN_OR_RETURN(const double identity,
                   RoundingLoss(consumers, at::ones_like(mean), cancel));
  double best = identity;
  at::Tensor chosen;
  for (int64_t i = 0; i < grid_; ++i) {
    const double ratio = static_cast<double>(i) / static_cast<double>(grid_);
    at::Tensor scale = x.pow(ratio);
    if (duo_) scale = scale.div(w.pow(1 - ratio).add_(kSmallestScale));
    scale = Centred(scale.clamp_min(kSmallestScale), live)
                .clamp(kSmallestScale, 1 / kSmallestScale);
    ASSIGN_OR_RETURN(const double loss,
                     RoundingLoss(consumers, fold.Spread(scale), cancel));
    if (!(loss < best)) continue;
    best = loss;
    chosen = scale;
  }
  spdlog::info("awq: {} keeps {:.4g} of the error that plain rounding has",
               consumers.front().name, identity > 0 ? best / identity : 1.0);
  return chosen;
}

absl::StatusOr<BlockEdits> AwqTransform::FitBlock(
    const BlockProblem& problem, const base::CancelToken& cancel) const {
  BlockEdits edits;
  for (const models::ScaleFold& fold : problem.folds.scales) {
    ASSIGN_OR_RETURN(const std::vector<Consumer> consumers,
                     QuantizedConsumers(fold, problem, cancel));
    if (consumers.empty()) continue;
    ASSIGN_OR_RETURN(const at::Tensor scale, Search(fold, consumers, cancel));
    if (!scale.defined()) continue;
    RETURN_IF_ERROR(AddFold(fold, scale, problem, &edits));
  }
  return edits;
}

// The published default: four bits with zero points in groups of 128, rounded
// to nearest after the search for scales and for clipping.
v1::Recipe Preset() {
  v1::Recipe recipe;
  recipe.add_transforms()->set_id("awq");
  recipe.add_transforms()->set_id("clip");
  recipe.mutable_method()->set_id("rtn");
  recipe.mutable_weights()->set_format("int4");
  recipe.mutable_weights()->set_group_size(128);
  recipe.mutable_weights()->set_symmetric(false);
  return recipe;
}

}  // namespace

TransformEntry Awq() {
  TransformEntry entry;
  entry.description = Describe();
  entry.preset = Preset();
  entry.make = [](const spec::Params& params) -> std::unique_ptr<Transform> {
    return std::make_unique<AwqTransform>(params);
  };
  return entry;
}

}  // namespace quantd::transforms
