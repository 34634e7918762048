// SPDX-License-Identifier: Apache-2.0
#include "worker/methods/soft_rounding.h"

#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "worker/methods/column_groups.h"

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
      linear_(rows.rounded) {
  const ColumnGroups groups(linear_.in_features, linear_.group_size);
  const at::TensorOptions like = rows.weight.options();
  scale_ = groups.Spread(linear_.scales.to(like));
  zero_ = groups.Spread(linear_.zeros.to(like));
  const at::Tensor code = rows.weight.div(scale_).add_(zero_);
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
}

absl::StatusOr<at::Tensor> SoftRounding::Weight() {
  sigmoid_ = v_.sigmoid();
  share_ = sigmoid_.mul(kZeta - kGamma).add_(kGamma).clamp_(0, 1);
  position_ = below_.add(share_);
  return position_.clamp(0, max_code_).sub_(zero_).mul_(scale_);
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
  const at::Tensor distance = share_.mul(2).sub_(1).abs_().pow_(beta);
  return options_.lambda * (static_cast<double>(distance.numel()) -
                            distance.sum(at::kDouble).item<double>());
}

at::Tensor SoftRounding::Gradient(const at::Tensor& gradient,
                                  int64_t step) const {
  // By h: nothing where the grid ends.
  at::Tensor by_share = gradient.mul(scale_).mul_(weights_in_loss_);
  by_share.mul_(position_.ge(0).logical_and_(position_.le(max_code_)));
  const double beta = BetaAt(step);
  if (beta > 0) {
    const at::Tensor distance = share_.mul(2).sub_(1);
    by_share.add_(distance.abs().pow_(beta - 1).mul_(distance.sign_()),
                  -2 * beta * options_.lambda);
  }
  // By v: nothing where h has been cut to 0 or 1.
  const at::Tensor slope = sigmoid_.mul(sigmoid_.neg().add_(1));
  slope.mul_(share_.gt(0).logical_and_(share_.lt(1)));
  return by_share.mul_(slope).mul_(kZeta - kGamma);
}

void SoftRounding::Step(const at::Tensor& gradient, int64_t step) {
  const at::Tensor g = Gradient(gradient, step);
  mean_.mul_(kDecay1).add_(g, 1 - kDecay1);
  square_.mul_(kDecay2).addcmul_(g, g, 1 - kDecay2);
  const double turn = static_cast<double>(step) + 1;
  const double bias1 = 1 - std::pow(kDecay1, turn);
  const double bias2 = 1 - std::pow(kDecay2, turn);
  const at::Tensor size = square_.div(bias2).sqrt_().add_(kEpsilon);
  v_.addcdiv_(mean_, size, -options_.learning_rate / bias1);
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
