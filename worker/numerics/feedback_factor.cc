// SPDX-License-Identifier: Apache-2.0
#include "worker/numerics/feedback_factor.h"

#include <ATen/ops/empty.h>

#include <utility>

#include "proto/base/status_macros.h"
#include "worker/kernels/operators.h"

namespace quantd::numerics {
namespace {

// The matrix again after its upper triangle was lost.
void Restore(const at::Tensor& matrix, const at::Tensor& diagonal) {
  matrix.tril_(-1);
  matrix.add_(matrix.t().clone());
  matrix.diagonal().copy_(diagonal);
}

}  // namespace

std::optional<FeedbackFactor> FactorForFeedback(const at::Tensor& hessian) {
  FeedbackFactor factor{hessian,
                        at::empty({hessian.size(0)}, hessian.options())};
  if (!kernels::FeedbackFactor(factor.feedback, factor.pivots)) {
    return std::nullopt;
  }
  return factor;
}

absl::StatusOr<std::optional<DampedFactor>> FactorWithDamping(
    const at::Tensor& hessian, const DampingOptions& options,
    const base::CancelToken& cancel) {
  const at::Tensor diagonal = hessian.diagonal().clone();
  const double mean = diagonal.mean(at::kDouble).item<double>();
  const double largest = diagonal.abs().max().item<double>();
  constexpr int kFloors = 6;
  double floor = 0;
  bool intact = true;
  for (int k = 0; k <= kFloors; ++k) {
    // A count and not a running sum, so that the fractions are exact steps.
    for (int step = 0;; ++step) {
      const double damp = options.damp + step * options.increment;
      if (step > 0 && damp >= 1) break;
      RETURN_IF_ERROR(cancel.Check());
      if (!intact) Restore(hessian, diagonal);
      hessian.diagonal().add_(damp * mean + floor);
      intact = false;
      auto factor = FactorForFeedback(hessian);
      if (factor.has_value()) {
        return DampedFactor{*std::move(factor), damp, floor};
      }
      if (options.increment <= 0) break;
    }
    if (options.increment <= 0) break;
    floor = floor == 0 ? 1e-6 * largest : 10 * floor;
  }
  return std::nullopt;
}

}  // namespace quantd::numerics
