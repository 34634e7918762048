// SPDX-License-Identifier: Apache-2.0
#include "worker/transforms/scale_fold.h"

#include <ATen/ops/isfinite.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>

#include <map>
#include <set>
#include <utility>

#include "proto/base/status_macros.h"
#include "worker/calibration/gram.h"
#include "worker/formats/tensor_scale.h"

namespace quantd::transforms {
namespace {

// The scale that dividing `gain` by `scale` and rounding to its own type
// amounts to: gain / round(gain / scale). A gain of zero stays zero under any
// scale.
at::Tensor ImpliedScale(const at::Tensor& gain, const at::Tensor& scale) {
  const at::Tensor wanted = scale.to(at::kDouble);
  const at::Tensor exact = gain.to(at::kDouble);
  const at::Tensor rounded =
      exact.div(wanted).to(gain.scalar_type()).to(at::kDouble);
  const at::Tensor implied = exact.div(rounded);
  const at::Tensor usable = at::isfinite(implied).logical_and_(implied.gt(0));
  return at::where(usable, implied, wanted).to(at::kFloat);
}

void FillColumnRanges(std::vector<Consumer>* consumers) {
  using Joined =
      std::pair<const calibration::InputStatistics*, absl::string_view>;
  const auto key = [](const Consumer& consumer) {
    return Joined(consumer.inputs, consumer.spec->format);
  };
  std::map<Joined, at::Tensor> ranges;
  for (const Consumer& consumer : *consumers) {
    if (!formats::HasTensorScale(*consumer.spec)) continue;
    const at::Tensor own = consumer.weight.abs().amax(0);
    at::Tensor& range = ranges[key(consumer)];
    range = range.defined() ? at::maximum(range, own) : own;
  }
  for (Consumer& consumer : *consumers) {
    const auto range = ranges.find(key(consumer));
    if (range != ranges.end()) consumer.column_ranges = range->second;
  }
}

}  // namespace

absl::StatusOr<std::vector<Consumer>> QuantizedConsumers(
    const models::ScaleFold& fold, const BlockProblem& problem,
    const base::CancelToken& cancel) {
  std::vector<Consumer> consumers;
  for (const std::string& name : fold.consumers) {
    const auto spec = problem.specs.find(name);
    const auto inputs = problem.inputs.find(name);
    if (spec == problem.specs.end() || inputs == problem.inputs.end()) continue;
    Consumer consumer{name, problem.block.linear(name).DenseWeight(),
                      &spec->second, inputs->second.get()};
    if (const at::Tensor& gram = inputs->second->second.gram; gram.defined()) {
      ASSIGN_OR_RETURN(
          consumer.output_energy,
          calibration::Energy(consumer.weight.contiguous(), gram, cancel));
    }
    consumers.push_back(std::move(consumer));
  }
  FillColumnRanges(&consumers);
  return consumers;
}

at::Tensor LargestInput(const std::vector<Consumer>& consumers) {
  at::Tensor largest = consumers.front().inputs->largest;
  for (const Consumer& consumer : consumers) {
    largest = at::maximum(largest, consumer.inputs->largest);
  }
  return largest;
}

at::Tensor MeanInput(const std::vector<Consumer>& consumers) {
  std::set<const calibration::InputStatistics*> seen;
  at::Tensor sum;
  double tokens = 0;
  for (const Consumer& consumer : consumers) {
    if (!seen.insert(consumer.inputs).second) continue;
    const double count = static_cast<double>(consumer.inputs->second.tokens);
    const at::Tensor part = consumer.inputs->mean.to(at::kDouble).mul(count);
    sum = sum.defined() ? sum.add(part) : part;
    tokens += count;
  }
  return sum.div(tokens).to(at::kFloat);
}

absl::StatusOr<double> RoundingLoss(const std::vector<Consumer>& consumers,
                                    const at::Tensor& spread,
                                    const base::CancelToken& cancel) {
  double loss = 0;
  for (const Consumer& consumer : consumers) {
    RETURN_IF_ERROR(cancel.Check());
    // Without any output there is none to lose.
    if (!(consumer.output_energy > 0)) continue;
    const at::Tensor scale = spread.to(consumer.weight.device());
    formats::WeightSpec spec = *consumer.spec;
    if (consumer.column_ranges.defined()) {
      spec.shared_range = consumer.column_ranges.mul(scale).max().item<float>();
    }
    ASSIGN_OR_RETURN(
        const formats::QuantizedLinear rounded,
        formats::RoundToNearest(consumer.weight.mul(scale).contiguous(), spec,
                                cancel));
    const at::Tensor difference = formats::Dequantize(rounded)
                                      .to(consumer.weight.device())
                                      .div_(scale)
                                      .sub_(consumer.weight);
    ASSIGN_OR_RETURN(const double lost,
                     calibration::Energy(difference.contiguous(),
                                         consumer.inputs->second.gram, cancel));
    loss += lost / consumer.output_energy;
  }
  return loss;
}

at::Tensor Centred(const at::Tensor& scale, const at::Tensor& live) {
  const at::Tensor usable =
      at::isfinite(scale).logical_and_(scale.gt(0)).logical_and_(live);
  const at::Tensor chosen = scale.masked_select(usable);
  if (chosen.numel() == 0) return at::ones_like(scale);
  // The square roots apart: their product may be beyond float32.
  const at::Tensor middle = chosen.max().sqrt().mul(chosen.min().sqrt());
  return at::where(usable, scale.div(middle), at::ones_like(scale));
}

absl::Status AddFold(const models::ScaleFold& fold, const at::Tensor& scale,
                     const BlockProblem& problem, BlockEdits* edits) {
  at::Tensor moved = scale.to(at::kFloat).contiguous();
  if (fold.from_norm) {
    ASSIGN_OR_RETURN(const at::Tensor gain,
                     problem.read(fold.producers.front()));
    moved = ImpliedScale(gain, moved);
  }
  for (const std::string& tensor : fold.producers) {
    edits->edits.push_back({tensor, EditKind::kDivideRows, moved});
  }
  const at::Tensor spread = fold.Spread(moved).contiguous();
  for (const std::string& module : fold.consumers) {
    edits->edits.push_back(
        {module + ".weight", EditKind::kMultiplyColumns, spread});
    edits->divisors[module] = spread;
  }
  return absl::OkStatus();
}

}  // namespace quantd::transforms
