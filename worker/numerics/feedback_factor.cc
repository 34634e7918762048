// SPDX-License-Identifier: Apache-2.0
#include "worker/numerics/feedback_factor.h"

#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_cholesky_ex.h>

#include <utility>

#include "proto/base/status_macros.h"

namespace quantd::numerics {

std::optional<FeedbackFactor> FactorForFeedback(const at::Tensor& hessian) {
  // With P the reversal, P H P = L L^T gives H = R R^T, R = P L P upper
  // triangular; then M = R / diag(R) by columns.
  auto [lower, code] = at::linalg_cholesky_ex(hessian.flip({0, 1}));
  if (code.item<int32_t>() != 0) return std::nullopt;
  FeedbackFactor factor;
  factor.feedback = lower.flip({0, 1});
  const at::Tensor diagonal = factor.feedback.diagonal().clone();
  factor.pivots = diagonal.square();
  factor.feedback.div_(diagonal);
  // LAPACK lets NaN through, and a pivot may underflow when squared.
  const bool usable = factor.pivots.gt(0).all().item<bool>() &&
                      at::isfinite(factor.feedback).all().item<bool>();
  if (!usable) return std::nullopt;
  return factor;
}

absl::StatusOr<std::optional<DampedFactor>> FactorWithDamping(
    const at::Tensor& hessian, const DampingOptions& options,
    const base::CancelToken& cancel) {
  const at::Tensor diagonal = hessian.diagonal();
  const double mean = diagonal.mean(at::kDouble).item<double>();
  const double largest = diagonal.abs().max().item<double>();
  constexpr int kFloors = 6;
  double floor = 0;
  for (int k = 0; k <= kFloors; ++k) {
    // A count and not a running sum, so that the fractions are exact steps.
    for (int step = 0;; ++step) {
      const double damp = options.damp + step * options.increment;
      if (step > 0 && damp >= 1) break;
      RETURN_IF_ERROR(cancel.Check());
      at::Tensor damped = hessian.clone();
      damped.diagonal().add_(damp * mean + floor);
      auto factor = FactorForFeedback(damped);
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
