// SPDX-License-Identifier: Apache-2.0
#include "worker/methods/soft_rounding.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "worker/kernels/row_ranges_cpu.h"

namespace quantd::methods {
namespace {

// The rectified sigmoid is stretched beyond 0 and 1, so that it reaches both.
constexpr double kZeta = 1.1;
constexpr double kGamma = -0.1;

// Adam's usual constants (Kingma and Ba, arXiv:1412.6980).
constexpr double kDecay1 = 0.9;
constexpr double kDecay2 = 0.999;
constexpr double kEpsilon = 1e-8;

}  // namespace

void AddSoftRoundingParameters(const SoftRoundingOptions& defaults,
                               v1::ComponentEntry* entry) {
  *entry->add_params() =
      spec::IntParameter("iterations", defaults.iterations, 0, 100000,
                         "Steps of Adam; 0 rounds to nearest.");
  *entry->add_params() = spec::DoubleParameter(
      "learning_rate", defaults.learning_rate, 0, 1, "Step size of Adam.");
  *entry->add_params() = spec::DoubleParameter(
      "lambda", defaults.lambda, 0, 1e6,
      "Weight of the penalty on weights between two codes, in units of plain "
      "rounding's loss per weight.");
  *entry->add_params() = spec::DoubleParameter(
      "warmup", defaults.warmup, 0, 1,
      "Part of the iterations before the penalty sets in.");
  *entry->add_params() = spec::DoubleParameter(
      "beta_start", defaults.beta_start, 1, 100,
      "The penalty's exponent when it sets in; large values leave weights in "
      "the middle alone.");
  *entry->add_params() =
      spec::DoubleParameter("beta_end", defaults.beta_end, 1, 100,
                            "The penalty's exponent at the end.");
}

SoftRoundingOptions ReadSoftRounding(const spec::Params& params, bool cosine) {
  return {.iterations = params.GetInt("iterations"),
          .learning_rate = params.GetDouble("learning_rate"),
          .lambda = params.GetDouble("lambda"),
          .warmup = params.GetDouble("warmup"),
          .beta_start = params.GetDouble("beta_start"),
          .beta_end = params.GetDouble("beta_end"),
          .cosine = cosine};
}

void PresetOfSoftRounding(v1::Recipe* preset) {
  v1::WeightFormat* weights = preset->mutable_weights();
  weights->set_symmetric(true);
  (*weights->mutable_params())["clip"].set_string_value("mse");
}

SoftRounding::SoftRounding(const RowsToRound& rows, int max_code,
                           const SoftRoundingOptions& options)
    : options_(options),
      max_code_(max_code),
      weights_in_loss_(static_cast<double>(rows.weights_in_loss)),
      linear_(rows.rounded),
      groups_(linear_.in_features, linear_.group_size) {
  const at::TensorOptions like = rows.weight.options();
  scales_ = linear_.scales.to(like).contiguous();
  zeros_ = linear_.zeros.to(like).contiguous();
  const at::Tensor code = rows.weight.div(groups_.Spread(scales_))
                              .add_(groups_.Spread(zeros_))
                              .contiguous();
  below_ = code.floor();
  const at::Tensor share = code.sub_(below_);
  // h(v) is that share: the first weights are the float ones, cut to the grid.
  v_ = share.sub_(kGamma)
           .reciprocal_()
           .mul_(kZeta - kGamma)
           .sub_(1)
           .log_()
           .neg_();
  mean_ = at::zeros_like(v_);
  square_ = at::zeros_like(v_);
  fused_ = v_.is_cpu() && v_.scalar_type() == at::kFloat;
}

SoftRounding::Softened SoftRounding::Soften() const {
  Softened softened;
  softened.sigmoid = v_.sigmoid();
  softened.share =
      softened.sigmoid.mul(kZeta - kGamma).add_(kGamma).clamp_(0, 1);
  softened.position = below_.add(softened.share);
  return softened;
}

kernels::GroupedRows SoftRounding::Grouped() const {
  return {.rows = v_.size(0),
          .columns = v_.size(1),
          .group_size = linear_.group_size,
          .scales = scales_.const_data_ptr<float>(),
          .zeros = zeros_.const_data_ptr<float>(),
          .max_code = static_cast<float>(max_code_)};
}

kernels::SoftState SoftRounding::FusedState() {
  return {.below = below_.const_data_ptr<float>(),
          .v = v_.mutable_data_ptr<float>(),
          .mean = mean_.mutable_data_ptr<float>(),
          .square = square_.mutable_data_ptr<float>()};
}

absl::StatusOr<at::Tensor> SoftRounding::Weight() {
  if (!fused_) {
    return Soften()
        .position.clamp_(0, max_code_)
        .sub_(groups_.Spread(zeros_))
        .mul_(groups_.Spread(scales_));
  }
  const at::Tensor out = at::empty_like(v_);
  const kernels::GroupedRows grids = Grouped();
  const kernels::SoftState state = FusedState();
  const kernels::SoftStep shape = StepAt(0);
  float* to = out.mutable_data_ptr<float>();
  at::parallel_for(0, grids.rows, kernels::RowsPerThread(grids.columns),
                   [&](int64_t first, int64_t last) {
                     const int64_t begin = first * grids.columns;
                     kernels::SoftWeights(grids.Slice(first, last),
                                          state.Skip(begin), shape, to + begin);
                   });
  return out;
}

double SoftRounding::BetaAt(int64_t step) const {
  const double steps = static_cast<double>(options_.iterations);
  const double begin = options_.warmup * steps;
  if (static_cast<double>(step) < begin) return 0;
  const double way =
      (static_cast<double>(step) - begin) / std::max(1.0, steps - 1 - begin);
  const double left = options_.cosine
                          ? (1 + std::cos(std::numbers::pi * way)) / 2
                          : std::max(0.0, 1 - way);
  return options_.beta_end + (options_.beta_start - options_.beta_end) * left;
}

double SoftRounding::Penalty(int64_t step) const {
  const double beta = BetaAt(step);
  if (beta == 0) return 0;
  const at::Tensor distance = Soften().share.mul(2).sub_(1).abs_().pow_(beta);
  return options_.lambda * (static_cast<double>(distance.numel()) -
                            distance.sum(at::kDouble).item<double>());
}

at::Tensor SoftRounding::Gradient(const at::Tensor& gradient,
                                  int64_t step) const {
  const Softened now = Soften();
  // By h: nothing where the grid ends.
  at::Tensor by_share =
      gradient.mul(groups_.Spread(scales_)).mul_(weights_in_loss_);
  by_share.mul_(now.position.ge(0).logical_and_(now.position.le(max_code_)));
  const double beta = BetaAt(step);
  if (beta > 0) {
    const at::Tensor distance = now.share.mul(2).sub_(1);
    by_share.add_(distance.abs().pow_(beta - 1).mul_(distance.sign_()),
                  -2 * beta * options_.lambda);
  }
  // By v: nothing where h has been cut to 0 or 1.
  const at::Tensor slope = now.sigmoid.mul(now.sigmoid.neg().add_(1));
  slope.mul_(now.share.gt(0).logical_and_(now.share.lt(1)));
  return by_share.mul_(slope).mul_(kZeta - kGamma);
}

kernels::SoftStep SoftRounding::StepAt(int64_t step) const {
  const double beta = BetaAt(step);
  const double turn = static_cast<double>(step) + 1;
  const double bias1 = 1 - std::pow(kDecay1, turn);
  const double bias2 = 1 - std::pow(kDecay2, turn);
  return {.stretch = static_cast<float>(kZeta - kGamma),
          .margin = static_cast<float>(-kGamma),
          .loss_factor = static_cast<float>(weights_in_loss_),
          .penalty_power = static_cast<float>(beta - 1),
          .penalty_factor = static_cast<float>(-2 * beta * options_.lambda),
          .decay1 = static_cast<float>(kDecay1),
          .decay2 = static_cast<float>(kDecay2),
          .epsilon = static_cast<float>(kEpsilon),
          .unbias2 = static_cast<float>(bias2),
          .size = static_cast<float>(options_.learning_rate / bias1)};
}

void SoftRounding::StepFused(const at::Tensor& gradient, int64_t step) {
  const at::Tensor by_weight = gradient.contiguous();
  const float* from = by_weight.const_data_ptr<float>();
  const kernels::GroupedRows grids = Grouped();
  const kernels::SoftState state = FusedState();
  const kernels::SoftStep now = StepAt(step);
  at::parallel_for(0, grids.rows, kernels::RowsPerThread(grids.columns),
                   [&](int64_t first, int64_t last) {
                     const int64_t begin = first * grids.columns;
                     kernels::StepSoft(grids.Slice(first, last),
                                       state.Skip(begin), now, from + begin);
                   });
}

void SoftRounding::Step(const at::Tensor& gradient, int64_t step) {
  if (fused_) return StepFused(gradient, step);
  const at::Tensor g = Gradient(gradient, step);
  mean_.mul_(kDecay1).add_(g, 1 - kDecay1);
  square_.mul_(kDecay2).addcmul_(g, g, 1 - kDecay2);
  const kernels::SoftStep now = StepAt(step);
  const at::Tensor size = square_.div(now.unbias2).sqrt_().add_(kEpsilon);
  v_.addcdiv_(mean_, size, -now.size);
}

absl::StatusOr<formats::QuantizedLinear> SoftRounding::Finish() {
  formats::QuantizedLinear linear = linear_;
  linear.codes = below_.add(v_.ge(0))
                     .clamp_(0, max_code_)
                     .to(at::kByte)
                     .cpu()
                     .contiguous();
  return linear;
}

}  // namespace quantd::methods
