// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/eager_search.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

namespace quantd::bench {
namespace {

constexpr double kMaxCode = 15;

at::Tensor StraightThrough(const at::Tensor& x) {
  return x.add(x.round().sub(x).detach());
}

at::Tensor Leaf(const at::Tensor& x) { return x.requires_grad_(true); }

// x -= rate sign(gradient), and no gradient is left.
void SignStep(at::Tensor& x, double rate) {
  x.sub_(x.grad().sign(), rate);
  x.mutable_grad().reset();
}

}  // namespace

at::Tensor EagerPseudoQuantize(const at::Tensor& weight, int64_t group_size) {
  const at::Tensor w = weight.reshape({-1, group_size});
  const at::Tensor high = w.amax(1, /*keepdim=*/true);
  const at::Tensor low = w.amin(1, /*keepdim=*/true);
  const at::Tensor scale = high.sub(low).clamp_min(1e-5).div(kMaxCode);
  const at::Tensor zero = low.div(scale).round().neg().clamp_(0, kMaxCode);
  return w.div(scale)
      .round()
      .add(zero)
      .clamp(0, kMaxCode)
      .sub(zero)
      .mul(scale)
      .reshape(weight.sizes());
}

double EagerOutputLoss(const at::Tensor& inputs, const at::Tensor& outputs,
                       const at::Tensor& rounded) {
  return outputs.sub(at::matmul(inputs, rounded.t()))
      .pow(2)
      .mean()
      .item<double>();
}

EagerSignedRounding::EagerSignedRounding(const at::Tensor& weight,
                                         int64_t group_size, bool symmetric)
    : weight_(weight.reshape({-1, group_size})),
      symmetric_(symmetric),
      offset_(Leaf(at::zeros_like(weight_))),
      low_(Leaf(at::ones({weight_.size(0)}))),
      high_(Leaf(at::ones({weight_.size(0)}))) {}

at::Tensor EagerSignedRounding::Weight() const {
  const at::Tensor bottom = weight_.amin(1).clamp_max(0).mul(low_);
  const at::Tensor top = weight_.amax(1).clamp_min(0).mul(high_);
  at::Tensor scale;
  at::Tensor zero;
  if (symmetric_) {
    scale = at::maximum(bottom.neg(), top).mul(2 / kMaxCode);
    zero = at::full_like(scale, (kMaxCode + 1) / 2);
  } else {
    scale = top.sub(bottom).div(kMaxCode);
    zero = StraightThrough(bottom.neg().div(scale));
  }
  scale = scale.clamp_min(1e-5).unsqueeze(1);
  zero = zero.unsqueeze(1);
  const at::Tensor code = StraightThrough(weight_.div(scale).add(offset_));
  return code.add(zero).clamp(0, kMaxCode).sub(zero).mul(scale);
}

void EagerSignedRounding::Turn(const at::Tensor& outer, double learning_rate) {
  Weight().backward(outer.view(weight_.sizes()));
  const at::NoGradGuard no_grad;
  SignStep(offset_, learning_rate);
  SignStep(low_, learning_rate);
  SignStep(high_, learning_rate);
  low_.clamp_(0, 1);
  high_.clamp_(0, 1);
}

}  // namespace quantd::bench
