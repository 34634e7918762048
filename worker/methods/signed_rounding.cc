// SPDX-License-Identifier: Apache-2.0
#include "worker/methods/signed_rounding.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <limits>

#include "proto/base/status_macros.h"
#include "worker/kernels/row_ranges_cpu.h"

namespace quantd::methods {

SignedRounding::SignedRounding(const RowsToRound& rows,
                               const formats::Format& format,
                               const SignedRoundingOptions& options)
    : options_(options),
      format_(format),
      spec_(rows.spec),
      groups_(rows.rounded.in_features, rows.rounded.group_size),
      weight_(rows.weight.contiguous()),
      fused_(weight_.is_cpu() && weight_.scalar_type() == at::kFloat),
      linear_(rows.rounded),
      min_(groups_.MinWithZero(weight_)),
      max_(groups_.MaxWithZero(weight_)),
      now_{at::zeros_like(weight_), at::ones_like(min_), at::ones_like(max_)},
      best_(now_),
      best_loss_(at::full({weight_.size(0), 1},
                          std::numeric_limits<double>::infinity(),
                          weight_.options())) {}

absl::StatusOr<SignedRounding::Grids> SignedRounding::ChooseGrids(
    const Variables& variables) const {
  const at::TensorOptions like = weight_.options();
  if (options_.minmax_learning_rate == 0) {
    return Grids{linear_.scales.to(like), linear_.zeros.to(like)};
  }
  // A group's range stands for its weights.
  const at::Tensor ends =
      at::stack({min_.mul(variables.low), max_.mul(variables.high)}, 2)
          .to(at::kFloat)
          .view({-1, 2});
  ASSIGN_OR_RETURN(const formats::Grid grid,
                   format_.ChooseGrid(ends, spec_, /*tensor_scale=*/1));
  return Grids{grid.scale.to(like).view(min_.sizes()),
               grid.zero.to(like).view(min_.sizes())};
}

SignedRounding::Placed SignedRounding::Place() const {
  Placed placed;
  placed.scale = groups_.Spread(grids_.scales);
  const at::Tensor zero = groups_.Spread(grids_.zeros);
  placed.units = weight_.div(placed.scale);
  const at::Tensor code = placed.units.add(now_.offset).round_().add_(zero);
  placed.inside = code.ge(0)
                      .logical_and_(code.le(format_.max_code()))
                      .to(weight_.scalar_type());
  placed.level = code.clamp_(0, format_.max_code()).sub_(zero);
  return placed;
}

kernels::GroupedRows SignedRounding::Grouped() const {
  return {.rows = weight_.size(0),
          .columns = weight_.size(1),
          .group_size = linear_.group_size,
          .scales = grids_.scales.const_data_ptr<float>(),
          .zeros = grids_.zeros.const_data_ptr<float>(),
          .max_code = static_cast<float>(format_.max_code())};
}

absl::StatusOr<at::Tensor> SignedRounding::Weight() {
  ASSIGN_OR_RETURN(grids_, ChooseGrids(now_));
  if (!fused_) {
    const Placed placed = Place();
    return placed.level.mul(placed.scale);
  }
  grids_ = {grids_.scales.contiguous(), grids_.zeros.contiguous()};
  const at::Tensor out = at::empty_like(weight_);
  const kernels::GroupedRows grids = Grouped();
  const kernels::SignedState state = {weight_.const_data_ptr<float>(),
                                      now_.offset.const_data_ptr<float>()};
  float* to = out.mutable_data_ptr<float>();
  at::parallel_for(0, grids.rows, kernels::RowsPerThread(grids.columns),
                   [&](int64_t first, int64_t last) {
                     const int64_t begin = first * grids.columns;
                     kernels::SignedWeights(grids.Slice(first, last),
                                            state.Skip(begin), to + begin);
                   });
  return out;
}

void SignedRounding::Judge(const at::Tensor& losses) {
  const at::Tensor loss = losses.to(best_loss_.options()).reshape({-1, 1});
  const at::Tensor better = loss.lt(best_loss_);
  if (!better.any().item<bool>()) return;
  best_loss_ = at::where(better, loss, best_loss_);
  if (better.all().item<bool>()) {
    best_ = now_;
    return;
  }
  best_.offset = at::where(better, now_.offset, best_.offset);
  best_.low = at::where(better, now_.low, best_.low);
  best_.high = at::where(better, now_.high, best_.high);
}

// Inside the grid w^ = s round(w / s + offset), which changes with s by
// round(...) - w / s. Where the code was cut to an end, w^ = s (end - z), and
// where there is a zero point to choose, z = -low / s.
SignedRounding::Sums SignedRounding::SumUp(const Placed& placed,
                                           const at::Tensor& gradient) const {
  const at::Tensor outside = placed.inside.neg().add_(1);
  at::Tensor by_scale = placed.level.sub(placed.units.mul(placed.inside));
  if (!linear_.symmetric) {
    const at::Tensor low = min_.mul(now_.low).div_(grids_.scales);
    by_scale.sub_(groups_.Spread(low).mul(outside));
  }
  return {groups_.Sum(by_scale.mul_(gradient)),
          groups_.Sum(outside.mul(gradient))};
}

void SignedRounding::AddRanges(const Sums& sums, Variables* by) const {
  if (linear_.symmetric) {
    // The scale is proportional to the end that is further from 0.
    const at::Tensor by_end = sums.by_scale.mul(grids_.scales);
    const at::Tensor lower = min_.mul(now_.low).neg_().ge(max_.mul(now_.high));
    constexpr double kLeast = 1e-6;
    by->low = by_end.div(now_.low.clamp_min(kLeast)).mul_(lower);
    by->high =
        by_end.div(now_.high.clamp_min(kLeast)).mul_(lower.logical_not());
    return;
  }
  // s = (high - low) / max_code; weights that were cut go along with low.
  const at::Tensor by_range = sums.by_scale.div(format_.max_code());
  by->low = sums.cut.sub(by_range).mul_(min_);
  by->high = by_range.mul(max_);
}

SignedRounding::Variables SignedRounding::Gradients(
    const at::Tensor& gradient) const {
  const Placed placed = Place();
  Variables by;
  by.offset = gradient.mul(placed.scale).mul_(placed.inside);
  AddRanges(SumUp(placed, gradient), &by);
  return by;
}

SignedRounding::Sums SignedRounding::MoveOffsets(const at::Tensor& gradient,
                                                 double size) {
  const at::Tensor by_weight = gradient.contiguous();
  const at::Tensor ends = min_.mul(now_.low).div_(grids_.scales).contiguous();
  const Sums sums = {at::empty(grids_.scales.sizes(), weight_.options()),
                     at::empty(grids_.scales.sizes(), weight_.options())};
  const kernels::GroupedRows grids = Grouped();
  const kernels::SignedState state = {weight_.const_data_ptr<float>(),
                                      now_.offset.const_data_ptr<float>()};
  // In place only where nobody else, such as the best ones, holds them.
  const at::Tensor next =
      now_.offset.use_count() == 1 ? now_.offset : at::empty_like(weight_);
  const kernels::SignedStep all = {
      .gradient = by_weight.const_data_ptr<float>(),
      .size = static_cast<float>(size),
      .ends = linear_.symmetric ? nullptr : ends.const_data_ptr<float>(),
      .offset = next.mutable_data_ptr<float>(),
      .by_scale = sums.by_scale.mutable_data_ptr<float>(),
      .cut = sums.cut.mutable_data_ptr<float>()};
  at::parallel_for(0, grids.rows, kernels::RowsPerThread(grids.columns),
                   [&](int64_t first, int64_t last) {
                     const int64_t begin = first * grids.columns;
                     kernels::StepSigned(
                         grids.Slice(first, last), state.Skip(begin),
                         all.Skip(begin, first * grids.groups()));
                   });
  now_.offset = next;
  return sums;
}

void SignedRounding::Step(const at::Tensor& gradient, int64_t step) {
  const double left =
      1 - static_cast<double>(step) / static_cast<double>(options_.iterations);
  const double size = options_.learning_rate * left;
  const double minmax = options_.minmax_learning_rate * left;
  Variables by;
  if (fused_) {
    AddRanges(MoveOffsets(gradient, size), &by);
  } else {
    by = Gradients(gradient);
    // Fresh tensors: the best ones may be these.
    now_.offset = now_.offset.sub(by.offset.sign(), size);
  }
  if (minmax == 0) return;
  now_.low = now_.low.sub(by.low.sign(), minmax).clamp_(0, 1);
  now_.high = now_.high.sub(by.high.sign(), minmax).clamp_(0, 1);
}

std::vector<std::pair<std::string, at::Tensor*>> SignedRounding::State() {
  return {{"offset", &now_.offset},  {"low", &now_.low},
          {"high", &now_.high},      {"best_offset", &best_.offset},
          {"best_low", &best_.low},  {"best_high", &best_.high},
          {"best_loss", &best_loss_}};
}

absl::StatusOr<formats::QuantizedLinear> SignedRounding::Finish() {
  ASSIGN_OR_RETURN(const Grids grids, ChooseGrids(best_));
  formats::QuantizedLinear linear = linear_;
  linear.codes = weight_.div(groups_.Spread(grids.scales))
                     .add_(best_.offset)
                     .round_()
                     .add_(groups_.Spread(grids.zeros))
                     .clamp_(0, format_.max_code())
                     .to(at::kByte)
                     .cpu()
                     .contiguous();
  linear.scales = grids.scales.to(at::kFloat).cpu().contiguous();
  linear.zeros = grids.zeros.to(linear_.zeros.scalar_type()).cpu().contiguous();
  return linear;
}

}  // namespace quantd::methods
