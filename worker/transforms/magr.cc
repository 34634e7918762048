// SPDX-License-Identifier: Apache-2.0
// MagR: weights are moved along directions that the layer's input hardly has,
// so that the largest of each group gets smaller (Zhang et al., MagR,
// arXiv:2406.00800, section 4). docs/transforms/magr.md says where we differ.
#include <ATen/core/Tensor.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>

#include <algorithm>
#include <cmath>

#include "proto/base/status_macros.h"
#include "worker/numerics/largest_prox.h"
#include "worker/transforms/transform.h"

namespace quantd::transforms {
namespace {

// In units of the root of the layer's mean square weight, where the recipe
// leaves it to us: the published 0.001 for rows and 0.0001 for groups are these
// for weights as large as Llama-2-7B's.
constexpr double kAlphaOfRows = 0.05;
constexpr double kAlphaOfGroups = 0.005;

v1::ComponentEntry Describe() {
  v1::ComponentEntry entry;
  entry.set_seam(v1::SEAM_TRANSFORM);
  entry.set_id("magr");
  entry.set_summary(
      "Makes the largest weights of each group smaller where the layer's "
      "inputs let it keep its output.");
  entry.set_when("With 2 and 3 bits, before gptq or rtn.");
  entry.set_reference(
      "Zhang et al., MagR, arXiv:2406.00800, section 4; "
      "docs/transforms/magr.md");
  *entry.add_params() = spec::DoubleParameter(
      "alpha", 0, 0, 10,
      "What a group's largest weight costs against the layer's output error, "
      "in units of the root of the layer's mean square weight; 0: 0.05 for "
      "one group per row, 0.005 for shorter groups.");
  *entry.add_params() =
      spec::IntParameter("iterations", 150, 0, 10000,
                         "Proximal gradient steps; 0 changes nothing.");
  entry.add_provides("calibrated");
  return entry;
}

// The largest eigenvalue of a positive semidefinite matrix by power iteration,
// from the column of the largest diagonal entry. It comes from below; a step of
// its reciprocal converges while it is above half of the true one.
double LargestEigenvalue(const at::Tensor& gram) {
  constexpr int kIterations = 50;
  at::Tensor vector = gram.select(1, gram.diagonal().argmax().item<int64_t>());
  double value = 0;
  for (int i = 0; i < kIterations; ++i) {
    const at::Tensor unit = vector.div(vector.norm());
    vector = at::mv(gram, unit);
    value = vector.norm().item<double>();
  }
  return value;
}

class MagrTransform : public Transform {
 public:
  explicit MagrTransform(const spec::Params& params)
      : alpha_(params.GetDouble("alpha")),
        iterations_(params.GetInt("iterations")) {}

  Needs needs() const override { return Needs::kGram; }

  absl::StatusOr<BlockEdits> FitBlock(
      const BlockProblem& problem,
      const base::CancelToken& cancel) const override {
    BlockEdits edits;
    for (const auto& [name, spec] : problem.specs) {
      const auto inputs = problem.inputs.find(name);
      if (iterations_ == 0 || inputs == problem.inputs.end()) continue;
      const at::Tensor weight = problem.block.linear(name).DenseWeight();
      ASSIGN_OR_RETURN(
          const at::Tensor reduced,
          Reduce(weight, spec, inputs->second->second.gram, cancel));
      edits.edits.push_back(
          {name + ".weight", EditKind::kReplace, reduced.cpu()});
    }
    return edits;
  }

 private:
  // float32 [out, in]: rows do not touch one another.
  absl::StatusOr<at::Tensor> Reduce(const at::Tensor& weight,
                                    const formats::WeightSpec& spec,
                                    const at::Tensor& gram,
                                    const base::CancelToken& cancel) const;

  const double alpha_;
  const int64_t iterations_;
};

absl::StatusOr<at::Tensor> MagrTransform::Reduce(
    const at::Tensor& weight, const formats::WeightSpec& spec,
    const at::Tensor& gram, const base::CancelToken& cancel) const {
  const double largest = LargestEigenvalue(gram);
  // Inputs that are all zero say nothing.
  if (!std::isnormal(largest)) return weight.clone();
  const at::Tensor step = gram.div(largest);
  const int64_t in = weight.size(1);
  const int64_t group = std::min(spec.GroupSizeFor(in), in);
  const double unit =
      std::sqrt(weight.square().mean(at::kDouble).item<double>());
  const double share = group == in ? kAlphaOfRows : kAlphaOfGroups;
  const double cut = (alpha_ > 0 ? alpha_ : share) * unit;
  // Some 10 GFLOP a step, a fraction of a second of a core.
  constexpr int64_t kFlops = 10'000'000'000;
  const int64_t rows = std::max<int64_t>(1, kFlops / (2 * in * in));
  at::Tensor reduced = weight.clone();
  for (int64_t begin = 0; begin < weight.size(0); begin += rows) {
    const int64_t end = std::min(begin + rows, weight.size(0));
    const at::Tensor original = weight.slice(0, begin, end);
    at::Tensor part = reduced.slice(0, begin, end);
    for (int64_t i = 0; i < iterations_; ++i) {
      RETURN_IF_ERROR(cancel.Check());
      part.sub_(at::mm(part.sub(original), step));
      at::Tensor on_cpu = part.cpu();
      numerics::CutLargest(cut, group, on_cpu);
      part.copy_(on_cpu);
    }
  }
  return reduced;
}

// Published before GPTQ (section 4.3).
v1::Recipe Preset() {
  v1::Recipe recipe;
  recipe.add_transforms()->set_id("magr");
  recipe.mutable_method()->set_id("gptq");
  return recipe;
}

}  // namespace

TransformEntry Magr() {
  TransformEntry entry;
  entry.description = Describe();
  entry.preset = Preset();
  entry.make = [](const spec::Params& params) -> std::unique_ptr<Transform> {
    return std::make_unique<MagrTransform>(params);
  };
  return entry;
}

}  // namespace quantd::transforms
