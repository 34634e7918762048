// SPDX-License-Identifier: Apache-2.0
#include "worker/numerics/feedback_factor.h"

#include <ATen/ops/eye.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/zeros_like.h>

#include <utility>

#include "proto/base/status_macros.h"

namespace quantd::numerics {
namespace {

// Writes -m^-1 for a unit upper triangular m into `result`, zero before. With
//   m = [A B; 0 C]: m^-1 = [A^-1, -A^-1 B C^-1; 0, C^-1],
// the corner by two triangular solves, so that zeros are never multiplied.
void NegatedInverse(const at::Tensor& m, const at::Tensor& result) {
  constexpr int64_t kLeaf = 128;
  const int64_t n = m.size(0);
  if (n <= kLeaf) {
    result.copy_(
        at::linalg_solve_triangular(m, at::eye(n, m.options()), /*upper=*/true,
                                    /*left=*/true, /*unitriangular=*/true)
            .neg_());
    return;
  }
  const int64_t half = (n / 2 + kLeaf - 1) / kLeaf * kLeaf;
  const at::Tensor a = m.narrow(0, 0, half).narrow(1, 0, half);
  const at::Tensor b = m.narrow(0, 0, half).narrow(1, half, n - half);
  const at::Tensor c = m.narrow(0, half, n - half).narrow(1, half, n - half);
  const at::Tensor left = at::linalg_solve_triangular(a, b, true, true, true);
  result.narrow(0, 0, half)
      .narrow(1, half, n - half)
      .copy_(at::linalg_solve_triangular(c, left, true, false, true));
  NegatedInverse(a, result.narrow(0, 0, half).narrow(1, 0, half));
  NegatedInverse(c, result.narrow(0, half, n - half).narrow(1, half, n - half));
}

}  // namespace

std::optional<FeedbackFactor> FactorForFeedback(const at::Tensor& hessian) {
  // With P the reversal, P H P = L L^T gives H = R R^T, R = P L P upper
  // triangular; then M = R / diag(R) by columns.
  auto [lower, code] = at::linalg_cholesky_ex(hessian.flip({0, 1}));
  if (code.item<int32_t>() != 0) return std::nullopt;
  FeedbackFactor factor;
  const at::Tensor unit = lower.flip({0, 1});
  const at::Tensor diagonal = unit.diagonal().clone();
  factor.pivots = diagonal.square();
  unit.div_(diagonal);
  factor.feedback = at::zeros_like(unit, at::MemoryFormat::Contiguous);
  NegatedInverse(unit, factor.feedback);
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
