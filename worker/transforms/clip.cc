// SPDX-License-Identifier: Apache-2.0
// Clip search: the largest weights of each group are cut to where the group's
// error is least (Lin et al., AWQ, arXiv:2306.00978, its released code). A
// group's share of the output error is d^T G d with its own block of the Gram
// matrix, which is the published sum over tokens.
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

#include <algorithm>

#include "proto/base/status_macros.h"
#include "worker/transforms/transform.h"

namespace quantd::transforms {
namespace {

v1::ComponentEntry Describe() {
  v1::ComponentEntry entry;
  entry.set_seam(v1::SEAM_TRANSFORM);
  entry.set_id("clip");
  entry.set_summary(
      "Cuts the largest weights of each group to where its error is least.");
  entry.set_when(
      "With 2 to 4 bits, after the other transforms and before rtn.");
  entry.set_reference(
      "Lin et al., AWQ, arXiv:2306.00978, released code; "
      "docs/transforms/clip.md");
  *entry.add_params() = spec::StringParameter(
      "objective", "output", {"output", "weights"},
      "output: the error of the layer's output on the calibration tokens; "
      "weights: that of the weights, which needs no data.");
  *entry.add_params() = spec::DoubleParameter(
      "norm", 2.4, 0.5, 8,
      "The power of a weight's error that objective weights adds up.");
  *entry.add_params() = spec::IntParameter(
      "grid", 20, 2, 1000, "The largest weight is cut in steps of 1/grid.");
  *entry.add_params() = spec::DoubleParameter(
      "max_shrink", 0.5, 0, 0.95,
      "At most this part of the largest weight is cut off.");
  entry.add_provides("calibrated");
  return entry;
}

struct Group {
  int64_t begin = 0;
  int64_t width = 0;
};

std::vector<Group> GroupsOf(int64_t in, int64_t group_size) {
  std::vector<Group> groups;
  for (int64_t begin = 0; begin < in; begin += group_size) {
    groups.push_back({begin, std::min(group_size, in - begin)});
  }
  return groups;
}

class ClipTransform : public Transform {
 public:
  explicit ClipTransform(const spec::Params& params)
      : of_output_(params.GetString("objective") == "output"),
        norm_(params.GetDouble("norm")),
        grid_(params.GetInt("grid")),
        max_shrink_(params.GetDouble("max_shrink")) {}

  Needs needs() const override {
    return of_output_ ? Needs::kGram : Needs::kWeights;
  }
  absl::StatusOr<BlockEdits> FitBlock(
      const BlockProblem& problem,
      const base::CancelToken& cancel) const override;

 private:
  // float32 [rows, groups]. `gram` is undefined for the error of weights.
  at::Tensor GroupErrors(const at::Tensor& difference,
                         const std::vector<Group>& groups,
                         const at::Tensor& gram) const;
  // float32 [rows, groups]: the largest magnitude that is kept.
  absl::StatusOr<at::Tensor> Limits(const at::Tensor& weight,
                                    const formats::WeightSpec& spec,
                                    const at::Tensor& gram,
                                    const base::CancelToken& cancel) const;

  const bool of_output_;
  const double norm_;
  const int64_t grid_;
  const double max_shrink_;
};

at::Tensor ClipTransform::GroupErrors(const at::Tensor& difference,
                                      const std::vector<Group>& groups,
                                      const at::Tensor& gram) const {
  std::vector<at::Tensor> errors;
  for (const Group& group : groups) {
    const at::Tensor d = difference.narrow(1, group.begin, group.width);
    if (!gram.defined()) {
      errors.push_back(d.abs().pow(norm_).sum(1));
      continue;
    }
    const at::Tensor block = gram.narrow(0, group.begin, group.width)
                                 .narrow(1, group.begin, group.width);
    errors.push_back(at::mm(d, block).mul_(d).sum(1));
  }
  return at::stack(errors, 1);
}

absl::StatusOr<at::Tensor> ClipTransform::Limits(
    const at::Tensor& weight, const formats::WeightSpec& spec,
    const at::Tensor& gram, const base::CancelToken& cancel) const {
  const int64_t in = weight.size(1);
  const int64_t width = std::min(spec.GroupSizeFor(in), in);
  const std::vector<Group> groups = GroupsOf(in, width);
  std::vector<at::Tensor> maxima;
  for (const Group& group : groups) {
    maxima.push_back(weight.narrow(1, group.begin, group.width).abs().amax(1));
  }
  const at::Tensor largest = at::stack(maxima, 1);
  at::Tensor best_error;
  at::Tensor best_limit;
  for (int64_t i = 0; i <= max_shrink_ * static_cast<double>(grid_); ++i) {
    RETURN_IF_ERROR(cancel.Check());
    const at::Tensor limit =
        largest.mul(1 - static_cast<double>(i) / static_cast<double>(grid_));
    const at::Tensor bound = limit.repeat_interleave(width, 1).narrow(1, 0, in);
    const at::Tensor clipped = weight.minimum(bound).maximum(bound.neg());
    ASSIGN_OR_RETURN(
        const formats::QuantizedLinear rounded,
        formats::RoundToNearest(clipped.contiguous(), spec, cancel));
    RETURN_IF_ERROR(cancel.Check());
    const at::Tensor error = GroupErrors(
        formats::Dequantize(rounded).to(weight.device()).sub_(weight), groups,
        gram);
    if (!best_error.defined()) {
      best_error = error;
      best_limit = limit;
      continue;
    }
    const at::Tensor better = error.lt(best_error);
    best_error = at::where(better, error, best_error);
    best_limit = at::where(better, limit, best_limit);
  }
  return best_limit.cpu();
}

absl::StatusOr<BlockEdits> ClipTransform::FitBlock(
    const BlockProblem& problem, const base::CancelToken& cancel) const {
  BlockEdits edits;
  const std::vector<std::string>& kept = problem.folds.score_linears;
  for (const auto& [name, spec] : problem.specs) {
    if (std::find(kept.begin(), kept.end(), name) != kept.end()) continue;
    at::Tensor gram;
    if (of_output_) {
      const auto inputs = problem.inputs.find(name);
      if (inputs == problem.inputs.end()) continue;
      gram = inputs->second->second.gram;
    }
    const at::Tensor weight = problem.block.linear(name).DenseWeight();
    ASSIGN_OR_RETURN(const at::Tensor limits,
                     Limits(weight, spec, gram, cancel));
    const int64_t in = weight.size(1);
    edits.edits.push_back({name + ".weight", EditKind::kClampGroups,
                           limits.contiguous(),
                           std::min(spec.GroupSizeFor(in), in)});
  }
  return edits;
}

}  // namespace

TransformEntry Clip() {
  TransformEntry entry;
  entry.description = Describe();
  entry.make = [](const spec::Params& params) -> std::unique_ptr<Transform> {
    return std::make_unique<ClipTransform>(params);
  };
  return entry;
}

}  // namespace quantd::transforms
