// SPDX-License-Identifier: Apache-2.0
// SmoothQuant: a part of the outliers of the activations moves into the
// weights, so that both can be rounded with few bits (Xiao et al., SmoothQuant,
// arXiv:2211.10438, section 4, equation 4).
#include <ATen/core/Tensor.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>

#include "proto/base/status_macros.h"
#include "worker/transforms/scale_fold.h"
#include "worker/transforms/transform.h"

namespace quantd::transforms {
namespace {

// The released code's floor, of weights and of scales.
constexpr double kFloor = 1e-5;

v1::ComponentEntry Describe() {
  v1::ComponentEntry entry;
  entry.set_seam(v1::SEAM_TRANSFORM);
  entry.set_id("smoothquant");
  entry.set_summary(
      "Moves outliers of the activations behind norms into the weights that "
      "read them.");
  entry.set_reference(
      "Xiao et al., SmoothQuant, arXiv:2211.10438, equation 4; "
      "docs/transforms/smoothquant.md");
  *entry.add_params() = spec::DoubleParameter(
      "alpha", 0.5, 0, 1,
      "How much moves: 0 leaves the activations' outliers where they are, 1 "
      "gives every channel the largest activation 1.");
  entry.add_provides("calibrated");
  entry.add_provides("function_preserving");
  return entry;
}

class SmoothQuantTransform : public Transform {
 public:
  explicit SmoothQuantTransform(const spec::Params& params)
      : alpha_(params.GetDouble("alpha")) {}

  Needs needs() const override { return Needs::kMagnitudes; }
  absl::StatusOr<BlockEdits> FitBlock(
      const BlockProblem& problem,
      const base::CancelToken& cancel) const override;

 private:
  const double alpha_;
};

absl::StatusOr<BlockEdits> SmoothQuantTransform::FitBlock(
    const BlockProblem& problem, const base::CancelToken& cancel) const {
  BlockEdits edits;
  for (const models::ScaleFold& fold : problem.folds.scales) {
    RETURN_IF_ERROR(cancel.Check());
    const std::vector<Consumer> consumers = QuantizedConsumers(fold, problem);
    if (!fold.from_norm || consumers.empty()) continue;
    at::Tensor w;
    for (const Consumer& consumer : consumers) {
      const at::Tensor largest = consumer.weight.abs().amax(0).cpu();
      w = w.defined() ? at::maximum(w, largest) : largest;
    }
    const at::Tensor a = fold.Gather(LargestInput(consumers)).amax(1);
    w = fold.Gather(w).amax(1);
    const at::Tensor scale = a.pow(alpha_)
                                 .div_(w.clamp_min(kFloor).pow(1 - alpha_))
                                 .clamp_min_(kFloor);
    // A channel that is always zero, or that nobody reads, has nothing to move.
    const at::Tensor live = a.gt(0).logical_and_(w.gt(0));
    RETURN_IF_ERROR(AddFold(fold, at::where(live, scale, at::ones_like(scale)),
                            problem, &edits));
  }
  return edits;
}

// The published default: eight bits with one scale per output row.
v1::Recipe Preset() {
  v1::Recipe recipe;
  recipe.add_transforms()->set_id("smoothquant");
  recipe.mutable_method()->set_id("rtn");
  recipe.mutable_weights()->set_format("int8");
  recipe.mutable_weights()->set_group_size(-1);
  recipe.mutable_weights()->set_symmetric(true);
  return recipe;
}

}  // namespace

TransformEntry SmoothQuant() {
  TransformEntry entry;
  entry.description = Describe();
  entry.preset = Preset();
  entry.make = [](const spec::Params& params) -> std::unique_ptr<Transform> {
    return std::make_unique<SmoothQuantTransform>(params);
  };
  return entry;
}

}  // namespace quantd::transforms
