// SPDX-License-Identifier: Apache-2.0
#include "worker/methods/usable_statistics.h"

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

}  // namespace quantd::methods
