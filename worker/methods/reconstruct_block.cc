// SPDX-License-Identifier: Apache-2.0
#include "worker/methods/reconstruct_block.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/status_macros.h"

namespace quantd::methods {
namespace {

// Names in the state that is kept.
constexpr char kStep[] = "step";
constexpr char kCurve[] = "curve";

// Sequences in a shuffled order, shuffled again whenever all had their turn.
class Batches {
 public:
  Batches(int64_t sequences, const BlockSchedule& schedule)
      : bits_(schedule.seed),
        order_(static_cast<size_t>(sequences)),
        next_(order_.size()),
        size_(std::min(schedule.batch, sequences)) {
    std::iota(order_.begin(), order_.end(), int64_t{0});
  }

  std::vector<int64_t> Next() {
    std::vector<int64_t> batch;
    while (static_cast<int64_t>(batch.size()) < size_) {
      if (next_ == order_.size()) Shuffle();
      batch.push_back(order_[next_++]);
    }
    return batch;
  }

 private:
  // Not std::shuffle, whose draws differ between libraries.
  void Shuffle() {
    for (size_t i = order_.size() - 1; i > 0; --i) {
      std::swap(order_[i], order_[bits_() % (i + 1)]);
    }
    next_ = 0;
  }

  std::mt19937_64 bits_;
  std::vector<int64_t> order_;
  size_t next_;
  const int64_t size_;
};

class BlockLoop {
 public:
  BlockLoop(const BlockProblem& problem, const BlockSchedule& schedule,
            const base::CancelToken& cancel)
      : problem_(problem),
        schedule_(schedule),
        cancel_(cancel),
        curve_(schedule.iterations) {}

  absl::StatusOr<std::vector<LinearSolution>> Run(const MakeVariables& make);

 private:
  absl::Status Round();
  absl::Status MakeAll(const MakeVariables& make);
  absl::Status Optimise();
  // One iteration; after the last one, a turn more to judge what it found.
  absl::Status Turn(const std::vector<int64_t>& batch, int64_t step);
  // What Turn(step) starts from.
  LoopState StateBefore(int64_t step);
  // The step to begin with: 0 where nothing usable was kept.
  int64_t Resume();
  // One forward and backward pass over `batch`: its loss, relative to plain
  // rounding's; the gradients are left in `weights`.
  absl::StatusOr<double> Backward(const std::vector<int64_t>& batch,
                                  const std::vector<at::Tensor>& weights);
  // The squared errors of sequence `i`, each as often as it counts.
  at::Tensor SquaredErrors(const at::Tensor& output, int64_t i) const;
  // The sum of squared output errors of each sequence.
  absl::StatusOr<std::vector<double>> Losses(
      const std::vector<LinearSolution>& solutions);
  absl::StatusOr<std::vector<LinearSolution>> Better();

  const BlockProblem& problem_;
  const BlockSchedule& schedule_;
  const base::CancelToken& cancel_;
  std::vector<LinearSolution> rounded_;
  std::vector<double> rounded_losses_;
  std::vector<std::unique_ptr<RoundingVariables>> variables_;
  LossCurve curve_;
};

double Sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

at::Tensor BlockLoop::SquaredErrors(const at::Tensor& output, int64_t i) const {
  const at::Tensor squares = output.sub(problem_.target(i)).square();
  return problem_.output_weights ? squares.mul(problem_.output_weights(i))
                                 : squares;
}

absl::Status BlockLoop::Round() {
  for (const BlockLinear& linear : problem_.linears) {
    ASSIGN_OR_RETURN(
        rounded_.emplace_back().linear,
        formats::RoundToNearest(linear.weight, linear.spec, cancel_));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<double>> BlockLoop::Losses(
    const std::vector<LinearSolution>& solutions) {
  const at::NoGradGuard no_gradients;
  std::vector<at::Tensor> weights;
  for (size_t i = 0; i < solutions.size(); ++i) {
    RETURN_IF_ERROR(cancel_.Check());
    weights.push_back(formats::Dequantize(solutions[i].linear)
                          .to(problem_.linears[i].weight.device()));
  }
  std::vector<double> losses;
  for (int64_t s = 0; s < problem_.sequences; ++s) {
    RETURN_IF_ERROR(cancel_.Check());
    const at::Tensor output = problem_.forward(problem_.input(s), weights);
    losses.push_back(SquaredErrors(output, s).sum(at::kDouble).item<double>());
  }
  return losses;
}

absl::Status BlockLoop::MakeAll(const MakeVariables& make) {
  int64_t weights = 0;
  for (const BlockLinear& linear : problem_.linears) {
    weights += linear.weight.numel();
  }
  for (size_t i = 0; i < rounded_.size(); ++i) {
    RETURN_IF_ERROR(cancel_.Check());
    const BlockLinear& linear = problem_.linears[i];
    ASSIGN_OR_RETURN(auto variables, make({.weight = linear.weight,
                                           .rounded = rounded_[i].linear,
                                           .spec = linear.spec,
                                           .weights_in_loss = weights}));
    variables_.push_back(std::move(variables));
  }
  return absl::OkStatus();
}

absl::StatusOr<double> BlockLoop::Backward(
    const std::vector<int64_t>& batch, const std::vector<at::Tensor>& weights) {
  const at::AutoGradMode gradients(true);
  double plain = 0;
  for (const int64_t s : batch) plain += rounded_losses_[s];
  if (plain == 0) return 0;
  double total = 0;
  for (const int64_t s : batch) {
    RETURN_IF_ERROR(cancel_.Check());
    const at::Tensor output = problem_.forward(problem_.input(s), weights);
    const at::Tensor loss = SquaredErrors(output, s).sum().mul(1 / plain);
    loss.backward();
    total += loss.item<double>();
  }
  return total;
}

LoopState BlockLoop::StateBefore(int64_t step) {
  LoopState state;
  state[kStep] = at::full({1}, step, at::kLong);
  state[kCurve] = curve_.State();
  for (size_t i = 0; i < variables_.size(); ++i) {
    for (const auto& [name, tensor] : variables_[i]->State()) {
      state[absl::StrCat(i, ".", name)] = *tensor;
    }
  }
  return state;
}

int64_t BlockLoop::Resume() {
  if (problem_.store == nullptr) return 0;
  const LoopState kept = problem_.store->Load();
  if (!Fits(kept, StateBefore(0))) return 0;
  const int64_t step = kept.at(kStep).item<int64_t>();
  if (step < 0 || step > schedule_.iterations) return 0;
  for (size_t i = 0; i < variables_.size(); ++i) {
    for (const auto& [name, tensor] : variables_[i]->State()) {
      *tensor = kept.at(absl::StrCat(i, ".", name)).to(tensor->device());
    }
  }
  curve_.Restore(kept.at(kCurve));
  return step;
}

absl::Status BlockLoop::Turn(const std::vector<int64_t>& batch, int64_t step) {
  const bool last = step == schedule_.iterations;
  std::vector<at::Tensor> weights;
  for (const auto& variables : variables_) {
    RETURN_IF_ERROR(cancel_.Check());
    ASSIGN_OR_RETURN(const at::Tensor weight, variables->Weight());
    weights.push_back(weight.detach().requires_grad_(true));
  }
  ASSIGN_OR_RETURN(const double loss, Backward(batch, weights));
  if (!last) {
    curve_.Add(step, loss);
    if (problem_.observe) problem_.observe(step, schedule_.iterations, loss);
  }
  const at::NoGradGuard no_gradients;
  for (size_t i = 0; i < weights.size(); ++i) {
    RETURN_IF_ERROR(cancel_.Check());
    variables_[i]->Judge(at::full({1}, loss, weights[i].options()));
    // An expert that no token of the batch reached has no gradient.
    const at::Tensor& gradient = weights[i].grad();
    if (!last && gradient.defined()) variables_[i]->Step(gradient, step);
  }
  return absl::OkStatus();
}

absl::Status BlockLoop::Optimise() {
  Batches batches(problem_.sequences, schedule_);
  const int64_t begin = Resume();
  for (int64_t step = 0; step < begin; ++step) batches.Next();
  for (int64_t step = begin; step <= schedule_.iterations; ++step) {
    RETURN_IF_ERROR(Turn(batches.Next(), step));
    if (step < schedule_.iterations && problem_.store != nullptr &&
        problem_.store->IsDue()) {
      problem_.store->Keep(StateBefore(step + 1));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<LinearSolution>> BlockLoop::Better() {
  std::vector<LinearSolution> found;
  for (const auto& variables : variables_) {
    ASSIGN_OR_RETURN(found.emplace_back().linear, variables->Finish());
  }
  ASSIGN_OR_RETURN(const std::vector<double> losses, Losses(found));
  const double ratio = Sum(losses) / Sum(rounded_losses_);
  std::vector<LinearSolution>& better = ratio < 1 ? found : rounded_;
  curve_.Add(schedule_.iterations, ratio < 1 ? ratio : 1);
  const std::vector<LossPoint> points = curve_.Points();
  for (LinearSolution& solution : better) {
    solution.first_loss = points.front().loss;
    solution.last_loss = points.back().loss;
  }
  better.front().loss_curve = points;
  if (problem_.observe) {
    problem_.observe(schedule_.iterations, schedule_.iterations,
                     points.back().loss);
  }
  return std::move(better);
}

absl::StatusOr<std::vector<LinearSolution>> BlockLoop::Run(
    const MakeVariables& make) {
  RETURN_IF_ERROR(Round());
  if (schedule_.iterations == 0 || problem_.sequences == 0) return rounded_;
  ASSIGN_OR_RETURN(rounded_losses_, Losses(rounded_));
  const double plain = Sum(rounded_losses_);
  if (plain == 0) return rounded_;
  if (!std::isfinite(plain)) {
    for (LinearSolution& solution : rounded_) {
      solution.verdict = v1::VERDICT_RTN_FALLBACK;
      solution.reason = "the block's output is not finite";
    }
    return rounded_;
  }
  RETURN_IF_ERROR(MakeAll(make));
  RETURN_IF_ERROR(Optimise());
  return Better();
}

}  // namespace

absl::StatusOr<std::vector<LinearSolution>> ReconstructBlock(
    const BlockProblem& problem, const BlockSchedule& schedule,
    const MakeVariables& make, const base::CancelToken& cancel) {
  return BlockLoop(problem, schedule, cancel).Run(make);
}

}  // namespace quantd::methods
