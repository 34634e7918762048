// SPDX-License-Identifier: Apache-2.0
// SmoothQuant: a part of the outliers of the activations moves into the
// weights, so that both can be rounded with few bits (Xiao et al., SmoothQuant,
// arXiv:2211.10438, section 4, equation 4).
#include <ATen/core/Tensor.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>

#include <cmath>

#include "proto/base/status_macros.h"
#include "worker/transforms/scale_fold.h"
#include "worker/transforms/transform.h"

namespace quantd::transforms {
namespace {

// The released code's floor, of weights and of scales.
constexpr double kFloor = 1e-5;
// Alphas that a search tries: 0, 0.05 ... 1.
constexpr int64_t kSearchSteps = 20;

v1::ComponentEntry Describe() {
  v1::ComponentEntry entry;
  entry.set_seam(v1::SEAM_TRANSFORM);
  entry.set_id("smoothquant");
  entry.set_summary(
      "Moves outliers of the activations behind norms into the weights that "
      "read them.");
  entry.set_when(
      "With 8-bit weights and activations, when a few input channels have "
      "outliers.");
  entry.set_reference(
      "Xiao et al., SmoothQuant, arXiv:2211.10438, equation 4; "
      "docs/transforms/smoothquant.md");
  *entry.add_params() = spec::DoubleParameter(
      "alpha", 0.5, 0, 1,
      "How much moves: 0 leaves the activations' outliers where they are, 1 "
      "gives every channel the largest activation 1.");
  *entry.add_params() = spec::BoolParameter(
      "search", false,
      "Chooses alpha for each norm by the error that rounding weights and "
      "activations leaves; alpha itself is then not read.");
  *entry.add_params() = spec::IntParameter(
      "activation_bits", 8, 2, 16,
      "The width of the activations that a search reckons with.");
  entry.add_provides("calibrated");
  entry.add_provides("function_preserving");
  return entry;
}

// The published setting: eight bits for weights, with one scale per output row,
// and for activations, with one per token (section 4.2, O1).
v1::Recipe Preset() {
  v1::Recipe recipe;
  recipe.add_transforms()->set_id("smoothquant");
  recipe.mutable_method()->set_id("rtn");
  recipe.mutable_weights()->set_format("int8");
  recipe.mutable_weights()->set_group_size(-1);
  recipe.mutable_weights()->set_symmetric(true);
  // Of both, absmax / 127, as in the released code.
  (*recipe.mutable_weights()->mutable_params())["grid"].set_string_value(
      "symmetric");
  recipe.set_activations("int8");
  (*recipe.mutable_activation_rounding()->mutable_params())["grid"]
      .set_string_value("symmetric");
  return recipe;
}

// float32 [channels]: the largest activation and the largest weight.
struct Maxima {
  at::Tensor activation;
  at::Tensor weight;
};

Maxima MaximaOf(const models::ScaleFold& fold,
                const std::vector<Consumer>& consumers) {
  at::Tensor weight;
  for (const Consumer& consumer : consumers) {
    const at::Tensor largest = consumer.weight.abs().amax(0).cpu();
    weight = weight.defined() ? at::maximum(weight, largest) : largest;
  }
  return {fold.Gather(LargestInput(consumers)).amax(1),
          fold.Gather(weight).amax(1)};
}

at::Tensor ScaleFor(const Maxima& maxima, double alpha) {
  const at::Tensor scale =
      maxima.activation.pow(alpha)
          .div_(maxima.weight.clamp_min(kFloor).pow(1 - alpha))
          .clamp_min_(kFloor);
  // A channel that is always zero, or that nobody reads, has nothing to move.
  const at::Tensor live =
      maxima.activation.gt(0).logical_and_(maxima.weight.gt(0));
  return at::where(live, scale, at::ones_like(scale));
}

class SmoothQuantTransform : public Transform {
 public:
  explicit SmoothQuantTransform(const spec::Params& params)
      : alpha_(params.GetDouble("alpha")),
        search_(params.GetBool("search")),
        activation_bits_(params.GetInt("activation_bits")) {}

  Needs needs() const override {
    return search_ ? Needs::kGram : Needs::kMagnitudes;
  }
  absl::StatusOr<BlockEdits> FitBlock(
      const BlockProblem& problem,
      const base::CancelToken& cancel) const override;

 private:
  absl::StatusOr<at::Tensor> Search(const models::ScaleFold& fold,
                                    const std::vector<Consumer>& consumers,
                                    const Maxima& maxima,
                                    const base::CancelToken& cancel) const;
  // The same for rounding activations: uniform noise of one step of a grid over
  // the largest activation, independent of the weights.
  double NoiseLoss(const std::vector<Consumer>& consumers,
                   const at::Tensor& spread) const;

  const double alpha_;
  const bool search_;
  const int64_t activation_bits_;
};

double SmoothQuantTransform::NoiseLoss(const std::vector<Consumer>& consumers,
                                       const at::Tensor& spread) const {
  const double steps = std::exp2(static_cast<double>(activation_bits_) - 1) - 1;
  double loss = 0;
  for (const Consumer& consumer : consumers) {
    if (!(consumer.output_energy > 0)) continue;
    const double step =
        consumer.inputs->largest.div(spread).max().item<double>() / steps;
    const double weight =
        consumer.weight.mul(spread.to(consumer.weight.device()))
            .square()
            .sum(at::kDouble)
            .item<double>();
    loss += static_cast<double>(consumer.inputs->second.tokens) * weight *
            step * step / 12 / consumer.output_energy;
  }
  return loss;
}

absl::StatusOr<at::Tensor> SmoothQuantTransform::Search(
    const models::ScaleFold& fold, const std::vector<Consumer>& consumers,
    const Maxima& maxima, const base::CancelToken& cancel) const {
  at::Tensor best;
  double least = 0;
  for (int64_t i = 0; i <= kSearchSteps; ++i) {
    const at::Tensor scale = ScaleFor(
        maxima, static_cast<double>(i) / static_cast<double>(kSearchSteps));
    const at::Tensor spread = fold.Spread(scale);
    ASSIGN_OR_RETURN(const double rounding,
                     RoundingLoss(consumers, spread, cancel));
    const double loss = rounding + NoiseLoss(consumers, spread);
    if (best.defined() && !(loss < least)) continue;
    best = scale;
    least = loss;
  }
  return best;
}

absl::StatusOr<BlockEdits> SmoothQuantTransform::FitBlock(
    const BlockProblem& problem, const base::CancelToken& cancel) const {
  BlockEdits edits;
  for (const models::ScaleFold& fold : problem.folds.scales) {
    RETURN_IF_ERROR(cancel.Check());
    ASSIGN_OR_RETURN(const std::vector<Consumer> consumers,
                     QuantizedConsumers(fold, problem, cancel));
    if (!fold.from_norm || consumers.empty()) continue;
    const Maxima maxima = MaximaOf(fold, consumers);
    at::Tensor scale = ScaleFor(maxima, alpha_);
    if (search_) {
      ASSIGN_OR_RETURN(scale, Search(fold, consumers, maxima, cancel));
    }
    RETURN_IF_ERROR(AddFold(fold, scale, problem, &edits));
  }
  return edits;
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
