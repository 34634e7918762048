// SPDX-License-Identifier: Apache-2.0
#include "worker/methods/column_rounding.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "proto/base/status_macros.h"
#include "worker/kernels/column_blocks.h"
#include "worker/kernels/level_columns.h"
#include "worker/kernels/operators.h"

namespace quantd::methods {
namespace {

using formats::Format;
using formats::QuantizedLinear;

// A layer on its way, in processing order once it is reordered.
struct Layer {
  const Format* format = nullptr;
  // None: grids are chosen beforehand.
  std::optional<kernels::IntegerGridRule> rule;
  // Grids are chosen beforehand, in the original order.
  bool static_groups = false;
  at::Tensor weight;  // float32 [out, in]
  // Complete but for codes, and for the grids that the loop chooses.
  QuantizedLinear linear;
  at::Tensor column_group;  // As in kernels::ColumnLoop.

  // Tables of levels are rounded to on the CPU.
  bool on_cpu() const { return format->level_rule() != nullptr; }
};

// From the weights as they are, in the order they are in.
absl::Status ChooseGrids(const ColumnRounding& rounding,
                         const base::CancelToken& cancel, Layer* layer) {
  ASSIGN_OR_RETURN(layer->linear, layer->format->ChooseGrids(
                                      layer->weight, rounding.spec, cancel));
  const int64_t in = layer->weight.size(1);
  layer->column_group = at::arange(in, layer->weight.options().dtype(at::kInt))
                            .floor_divide(layer->linear.group_size);
  return absl::OkStatus();
}

// Room for the grids that the loop chooses.
void LeaveGridsOpen(const ColumnRounding& rounding, Layer* layer) {
  QuantizedLinear& linear = layer->linear;
  linear = formats::LayoutOf(layer->weight, rounding.spec);
  const int64_t out = linear.out_features;
  const int64_t groups =
      (linear.in_features + linear.group_size - 1) / linear.group_size;
  linear.scales = at::empty({out, groups}, layer->weight.options());
  linear.zeros =
      at::empty({out, groups}, layer->weight.options().dtype(at::kByte));
}

absl::StatusOr<Layer> Begin(const ColumnRounding& rounding,
                            const base::CancelToken& cancel) {
  Layer layer;
  ASSIGN_OR_RETURN(layer.format, formats::FindFormat(rounding.spec.format));
  ASSIGN_OR_RETURN(layer.rule, layer.format->IntegerRule(rounding.spec));
  layer.weight = rounding.weight;
  // Groups that stay together hold the same weights in either order.
  const bool together = rounding.order.group_order.defined();
  layer.static_groups =
      rounding.static_groups || (together && !layer.rule.has_value());
  if (layer.static_groups) {
    RETURN_IF_ERROR(ChooseGrids(rounding, cancel, &layer));
  }
  const at::Tensor& permutation = rounding.order.permutation;
  if (permutation.defined()) {
    layer.weight = layer.weight.index_select(1, permutation);
  }
  if (!layer.static_groups) {
    if (layer.rule.has_value()) {
      LeaveGridsOpen(rounding, &layer);
    } else {
      RETURN_IF_ERROR(ChooseGrids(rounding, cancel, &layer));
    }
  } else if (permutation.defined()) {
    layer.column_group = layer.column_group.index_select(0, permutation);
  }
  return layer;
}

// Columns between two looks at the cancel token: at most some 40 GFLOP, half a
// second of one CPU core. Depends on the shape alone, as the result does on it
// in its last bits.
int64_t PanelWidth(const at::Tensor& weight, int64_t block_size) {
  constexpr int64_t kWidest = 512;
  constexpr int64_t kFlops = 40'000'000'000;
  const int64_t affordable = kFlops / (2 * weight.numel());
  const int64_t width = std::min(kWidest, affordable);
  return std::max(block_size, width / block_size * block_size);
}

// The weight as the loop rounds it. What the loop adds to a column depends on
// the errors of others alone, so that offsets can be left out of it.
at::Tensor AboveOffsets(const Layer& layer) {
  const at::Tensor& offsets = layer.linear.offsets;
  if (!offsets.defined()) return layer.weight;
  return layer.weight.sub(
      offsets.to(layer.weight.device())
          .index_select(1, layer.column_group.to(at::kLong)));
}

kernels::ColumnLoop MakeLoop(const Layer& layer,
                             const numerics::FeedbackFactor& factor,
                             int64_t block_size) {
  const at::Device device =
      layer.on_cpu() ? at::Device(at::kCPU) : layer.weight.device();
  kernels::ColumnLoop loop;
  loop.corrected = AboveOffsets(layer).to(device);
  loop.feedback = factor.feedback.to(device);
  loop.pivots = factor.pivots.to(device);
  loop.codes = at::empty_like(loop.corrected, at::kByte);
  loop.scales = layer.linear.scales.to(device);
  if (layer.linear.zeros.defined()) {
    loop.zeros = layer.linear.zeros.to(device);
  }
  if (layer.column_group.defined()) {
    loop.column_group = layer.column_group.to(device);
  }
  loop.loss = at::zeros({loop.corrected.size(0)}, loop.corrected.options());
  loop.rule = layer.rule.value_or(kernels::IntegerGridRule{});
  loop.rule.max_code = layer.format->max_code();
  loop.group_size = layer.linear.group_size;
  loop.block_size = block_size;
  return loop;
}

absl::Status RunLoop(const Layer& layer, const kernels::ColumnLoop& loop,
                     const base::CancelToken& cancel) {
  const int64_t in = loop.corrected.size(1);
  const int64_t width = PanelWidth(loop.corrected, loop.block_size);
  const int64_t group = loop.column_group.defined() ? 0 : loop.group_size;
  const kernels::LevelGridRule* levels = layer.format->level_rule();
  for (int64_t begin = 0; begin < in;) {
    RETURN_IF_ERROR(cancel.Check());
    const int64_t end = kernels::BlockEnd(begin, in, width, group);
    if (levels != nullptr) {
      kernels::GptqLevelColumns(loop, *levels, begin, end);
    } else {
      kernels::GptqColumns(loop, begin, end);
    }
    begin = end;
  }
  return absl::OkStatus();
}

// Says which group each column belongs to, or brings groups that stayed
// together back into the original order. `position`: where each column was
// rounded.
void RestoreGroups(const ColumnOrder& order, const at::Tensor& position,
                   QuantizedLinear* linear) {
  if (!order.group_order.defined()) {
    linear->group_index =
        position.floor_divide(linear->group_size).to(at::kInt);
    return;
  }
  const at::Tensor group = at::argsort(order.group_order.cpu());
  linear->scales = linear->scales.index_select(1, group);
  linear->zeros = linear->zeros.index_select(1, group);
}

QuantizedLinear TakeResult(const ColumnRounding& rounding, const Layer& layer,
                           const kernels::ColumnLoop& loop) {
  QuantizedLinear linear = layer.linear;
  linear.codes = loop.codes.cpu();
  linear.scales = loop.scales.cpu();
  if (loop.zeros.defined()) linear.zeros = loop.zeros.cpu();
  if (rounding.order.permutation.defined()) {
    const at::Tensor position = at::argsort(rounding.order.permutation.cpu());
    linear.codes = linear.codes.index_select(1, position);
    const bool one_group = loop.group_size >= linear.in_features;
    if (!layer.static_groups && !one_group) {
      RestoreGroups(rounding.order, position, &linear);
    }
  }
  linear.codes = linear.codes.contiguous();
  return linear;
}

}  // namespace

absl::StatusOr<std::optional<QuantizedLinear>> RoundColumns(
    const ColumnRounding& rounding, const numerics::FeedbackFactor& factor,
    const base::CancelToken& cancel) {
  ASSIGN_OR_RETURN(const Layer layer, Begin(rounding, cancel));
  const kernels::ColumnLoop loop = MakeLoop(layer, factor, rounding.block_size);
  RETURN_IF_ERROR(RunLoop(layer, loop, cancel));
  if (!at::isfinite(loop.loss).all().item<bool>()) return std::nullopt;
  return TakeResult(rounding, layer, loop);
}

}  // namespace quantd::methods
