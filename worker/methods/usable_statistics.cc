// SPDX-License-Identifier: Apache-2.0
#include "worker/methods/usable_statistics.h"

#include <ATen/ops/aminmax.h>

#include <cmath>
#include <utility>

#include "proto/base/status_macros.h"

namespace quantd::methods {

std::string StatisticsProblem(const LinearProblem& problem) {
  const calibration::Statistics* statistics = problem.statistics;
  if (statistics == nullptr || !statistics->gram.defined()) {
    return "there are no statistics of the layer's input";
  }
  const int64_t in = problem.weight.size(1);
  if (statistics->gram.dim() != 2 || statistics->gram.size(0) != in ||
      statistics->gram.size(1) != in) {
    return "the statistics are those of another layer";
  }
  if (statistics->tokens <= 0) return "no calibration token reached the layer";
  return "";
}

std::string MomentsProblem(const at::Tensor& gram) {
  // NaN passes through minimum and maximum; no second matrix is made.
  const auto [low, high] = at::aminmax(gram);
  if (!std::isfinite(low.item<float>()) || !std::isfinite(high.item<float>())) {
    return "the statistics of the layer's input are not finite";
  }
  if ((gram.dim() == 2 ? gram.diagonal() : gram).lt(0).any().item<bool>()) {
    return "the statistics of the layer's input are not second moments";
  }
  return "";
}

std::string SquaresProblem(const LinearProblem& problem) {
  const calibration::Statistics* statistics = problem.statistics;
  if (statistics == nullptr || !calibration::SquaresOf(*statistics).defined()) {
    return "there are no statistics of the layer's input";
  }
  const at::Tensor squares = calibration::SquaresOf(*statistics);
  if (squares.numel() != problem.weight.size(1)) {
    return "the statistics are those of another layer";
  }
  if (statistics->tokens <= 0) return "no calibration token reached the layer";
  return MomentsProblem(squares);
}

absl::StatusOr<LinearSolution> FallBackToNearest(
    const LinearProblem& problem, std::string reason,
    const base::CancelToken& cancel) {
  LinearSolution solution;
  ASSIGN_OR_RETURN(solution.linear, formats::RoundToNearest(
                                        problem.weight, problem.spec, cancel));
  solution.verdict = v1::VERDICT_RTN_FALLBACK;
  solution.reason = std::move(reason);
  return solution;
}

}  // namespace quantd::methods
