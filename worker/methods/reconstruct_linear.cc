// SPDX-License-Identifier: Apache-2.0
#include "worker/methods/reconstruct_linear.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/status_macros.h"
#include "worker/methods/usable_statistics.h"

namespace quantd::methods {
namespace {

// Names in the state that is kept: where the loop stands, what is done, and in
// front of those of the variables.
constexpr char kRow[] = "row";
constexpr char kStep[] = "step";
constexpr char kCurve[] = "curve";
constexpr char kCodes[] = "codes";
constexpr char kScales[] = "scales";
constexpr char kZeros[] = "zeros";
constexpr char kVariable[] = "variable.";

// Why the statistics cannot be used; empty where they can.
std::string WhyUnusable(const LinearProblem& problem) {
  const std::string trouble = StatisticsProblem(problem);
  if (!trouble.empty()) return trouble;
  return MomentsProblem(problem.statistics->gram);
}

// Rows whose product with the Gram matrix takes at most some 10 GFLOP, a
// fraction of a second on one CPU core, and whose variables stay in its cache.
int64_t RowsAtATime(const at::Tensor& weight) {
  constexpr int64_t kFlops = 10'000'000'000;
  constexpr int64_t kWeights = int64_t{1} << 18;
  constexpr int64_t kLeast = 64;  // Fewer waste the product.
  const int64_t in = weight.size(1);
  const int64_t affordable = std::max<int64_t>(1, kFlops / (2 * in * in));
  const int64_t cached = std::max<int64_t>(kLeast, kWeights / in);
  return std::min({weight.size(0), affordable, cached});
}

// Views of rows [begin, end).
formats::QuantizedLinear SliceRows(const formats::QuantizedLinear& linear,
                                   int64_t begin, int64_t end) {
  formats::QuantizedLinear rows = linear;
  rows.out_features = end - begin;
  rows.codes = linear.codes.slice(0, begin, end);
  rows.scales = linear.scales.slice(0, begin, end);
  rows.zeros = linear.zeros.slice(0, begin, end);
  return rows;
}

// Copies the rows of `from` where `chosen`, bool [rows], into those of `to`.
void CopyRows(const formats::QuantizedLinear& from, const at::Tensor& chosen,
              const formats::QuantizedLinear& to) {
  const at::Tensor rows = chosen.cpu().unsqueeze(1);
  to.codes.copy_(at::where(rows, from.codes, to.codes));
  to.scales.copy_(at::where(rows, from.scales, to.scales));
  to.zeros.copy_(at::where(rows, from.zeros, to.zeros));
}

// Rows that are learned together. Rows do not touch one another's loss.
struct Slab {
  int64_t begin = 0;
  at::Tensor weight;
  // Views of the layer's; plain rounding until the slab is done.
  formats::QuantizedLinear rounded;
  // float32 [rows]: the losses of plain rounding.
  at::Tensor plain;
  // float32 [rows, 1]: their reciprocals.
  at::Tensor unit;
  std::unique_ptr<RoundingVariables> variables;
};

class LinearLoop {
 public:
  // `gram` with a mean diagonal of 1, on the weight's device. Improves
  // `linear`, whose rows are rounded to nearest.
  LinearLoop(const LinearProblem& problem, const at::Tensor& gram,
             int64_t iterations, const formats::QuantizedLinear& linear,
             const base::CancelToken& cancel)
      : problem_(problem),
        gram_(gram),
        iterations_(iterations),
        linear_(linear),
        rows_(RowsAtATime(problem.weight)),
        cancel_(cancel),
        curve_(iterations) {}

  absl::Status Run(const MakeVariables& make);
  // Relative to plain rounding's, the mean over all rows.
  std::vector<LossPoint> Curve() const {
    return curve_.Points(static_cast<double>(out()));
  }

 private:
  int64_t out() const { return problem_.weight.size(0); }
  absl::StatusOr<Slab> Begin(int64_t begin, const MakeVariables& make) const;
  // Every step from `step` on.
  absl::Status Optimise(const Slab& slab, int64_t step);
  absl::Status Finish(const Slab& slab);
  // What `step` of the slab starts from.
  LoopState StateBefore(const Slab& slab, int64_t step) const;
  // The slab and the step to begin with: the first ones where nothing usable
  // was kept.
  absl::StatusOr<std::pair<Slab, int64_t>> Resume(const MakeVariables& make);
  void Restore(const LoopState& kept, const Slab& slab);
  // float32 [rows]: D G D^T of each row of the error.
  at::Tensor Losses(const formats::QuantizedLinear& rows,
                    const at::Tensor& weight) const {
    const at::Tensor error =
        formats::Dequantize(rows).to(weight.device()).sub_(weight);
    return at::mm(error, gram_).mul_(error).sum(1);
  }
  void Observe(const Slab& slab, int64_t step, const at::Tensor& losses) const;

  const LinearProblem& problem_;
  const at::Tensor gram_;
  const int64_t iterations_;
  const formats::QuantizedLinear& linear_;
  // Of a slab; the last may have fewer.
  const int64_t rows_;
  const base::CancelToken& cancel_;
  // Sums over the rows of the slabs that came to the step.
  LossCurve curve_;
};

void LinearLoop::Observe(const Slab& slab, int64_t step,
                         const at::Tensor& losses) const {
  if (!problem_.observe) return;
  const int64_t all = out() * iterations_;
  const int64_t done = slab.begin * iterations_ + step * losses.size(0);
  problem_.observe(done / out(), all / out(), losses.mean().item<double>());
}

absl::StatusOr<Slab> LinearLoop::Begin(int64_t begin,
                                       const MakeVariables& make) const {
  const int64_t end = std::min(begin + rows_, out());
  Slab slab;
  slab.begin = begin;
  slab.weight = problem_.weight.slice(0, begin, end);
  slab.rounded = SliceRows(linear_, begin, end);
  slab.plain = Losses(slab.rounded, slab.weight);
  // A row that rounding does not hurt, or whose input is always zero.
  const at::Tensor hurt = slab.plain.gt(0);
  slab.unit =
      at::where(hurt, slab.plain.reciprocal(), at::zeros_like(slab.plain))
          .unsqueeze(1);
  ASSIGN_OR_RETURN(slab.variables,
                   make({.weight = slab.weight,
                         .rounded = slab.rounded,
                         .spec = problem_.spec,
                         .weights_in_loss = slab.weight.size(1)}));
  return slab;
}

absl::Status LinearLoop::Optimise(const Slab& slab, int64_t step) {
  RoundingVariables& variables = *slab.variables;
  // One turn more, to judge what the last step found.
  for (; step <= iterations_; ++step) {
    RETURN_IF_ERROR(cancel_.Check());
    ASSIGN_OR_RETURN(at::Tensor error, variables.Weight());
    error.sub_(slab.weight);
    const at::Tensor product = at::mm(error, gram_).mul_(slab.unit);
    const at::Tensor losses = error.mul_(product).sum(1);
    variables.Judge(losses);
    Observe(slab, step, losses);
    if (step == iterations_) break;
    curve_.Add(step, losses.sum().item<double>());
    variables.Step(product.mul_(2), step);
    if (problem_.store != nullptr && problem_.store->IsDue()) {
      problem_.store->Keep(StateBefore(slab, step + 1));
    }
  }
  return absl::OkStatus();
}

absl::Status LinearLoop::Finish(const Slab& slab) {
  ASSIGN_OR_RETURN(const formats::QuantizedLinear found,
                   slab.variables->Finish());
  // By more than the float32 sums are worth.
  constexpr double kMargin = 1e-5;
  const at::Tensor losses = Losses(found, slab.weight);
  const at::Tensor better = losses.lt(slab.plain.mul(1 - kMargin));
  CopyRows(found, better, slab.rounded);
  curve_.Add(iterations_, at::where(better, losses, slab.plain)
                              .mul(slab.unit.squeeze(1))
                              .sum()
                              .item<double>());
  return absl::OkStatus();
}

LoopState LinearLoop::StateBefore(const Slab& slab, int64_t step) const {
  const formats::QuantizedLinear done = SliceRows(linear_, 0, slab.begin);
  LoopState state = {{kRow, at::full({1}, slab.begin, at::kLong)},
                     {kStep, at::full({1}, step, at::kLong)},
                     {kCurve, curve_.State()},
                     {kCodes, done.codes},
                     {kScales, done.scales},
                     {kZeros, done.zeros}};
  for (const auto& [name, tensor] : slab.variables->State()) {
    state[absl::StrCat(kVariable, name)] = *tensor;
  }
  return state;
}

// -1 where there is no such number.
int64_t WholeNumber(const LoopState& state, const char* name) {
  const auto found = state.find(name);
  const bool usable = found != state.end() && found->second.numel() == 1 &&
                      found->second.scalar_type() == at::kLong;
  return usable ? found->second.item<int64_t>() : -1;
}

absl::StatusOr<std::pair<Slab, int64_t>> LinearLoop::Resume(
    const MakeVariables& make) {
  LoopState kept;
  if (problem_.store != nullptr) kept = problem_.store->Load();
  const int64_t begin = WholeNumber(kept, kRow);
  const int64_t step = WholeNumber(kept, kStep);
  if (begin >= 0 && begin < out() && begin % rows_ == 0 && step >= 0 &&
      step <= iterations_) {
    ASSIGN_OR_RETURN(Slab slab, Begin(begin, make));
    if (Fits(kept, StateBefore(slab, step))) {
      Restore(kept, slab);
      return std::make_pair(std::move(slab), step);
    }
  }
  ASSIGN_OR_RETURN(Slab first, Begin(0, make));
  return std::make_pair(std::move(first), int64_t{0});
}

void LinearLoop::Restore(const LoopState& kept, const Slab& slab) {
  const formats::QuantizedLinear done = SliceRows(linear_, 0, slab.begin);
  done.codes.copy_(kept.at(kCodes));
  done.scales.copy_(kept.at(kScales));
  done.zeros.copy_(kept.at(kZeros));
  curve_.Restore(kept.at(kCurve));
  for (const auto& [name, tensor] : slab.variables->State()) {
    *tensor = kept.at(absl::StrCat(kVariable, name)).to(tensor->device());
  }
}

absl::Status LinearLoop::Run(const MakeVariables& make) {
  ASSIGN_OR_RETURN(auto start, Resume(make));
  auto [slab, step] = std::move(start);
  while (true) {
    RETURN_IF_ERROR(Optimise(slab, step));
    RETURN_IF_ERROR(Finish(slab));
    if (slab.begin + rows_ >= out()) return absl::OkStatus();
    ASSIGN_OR_RETURN(slab, Begin(slab.begin + rows_, make));
    step = 0;
  }
}

}  // namespace

absl::StatusOr<LinearSolution> ReconstructLinear(
    const LinearProblem& problem, int64_t iterations, const MakeVariables& make,
    const base::CancelToken& cancel) {
  RETURN_IF_ERROR(cancel.Check());
  RETURN_IF_ERROR(formats::CheckWeight(problem.weight));
  const std::string trouble = WhyUnusable(problem);
  if (!trouble.empty()) return FallBackToNearest(problem, trouble, cancel);
  LinearSolution solution;
  ASSIGN_OR_RETURN(solution.linear, formats::RoundToNearest(
                                        problem.weight, problem.spec, cancel));
  const at::Tensor gram = problem.statistics->gram.to(problem.weight.device());
  const double size = gram.diagonal().mean().item<double>();
  // Inputs that are all zero say nothing.
  if (iterations == 0 || !(size > 0)) return solution;
  LinearLoop loop(problem, gram.div(size), iterations, solution.linear, cancel);
  RETURN_IF_ERROR(loop.Run(make));
  solution.loss_curve = loop.Curve();
  solution.first_loss = solution.loss_curve.front().loss;
  solution.last_loss = solution.loss_curve.back().loss;
  return solution;
}

}  // namespace quantd::methods
