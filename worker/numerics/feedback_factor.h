// SPDX-License-Identifier: Apache-2.0
// The triangular factor that error feedback needs, from a Hessian that may be
// singular.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "absl/status/statusor.h"
#include "proto/base/cancel.h"

namespace quantd::numerics {

// hessian = M diag(pivots) M^T with M unit upper triangular. In terms of the
// published factor, hessian^-1 = U^T U: -M^-1 = -diag(U)^-1 U and pivots =
// diag(U)^-2. Tensors are on the device of the Hessian.
struct FeedbackFactor {
  // float32 [n, n]: -M^-1 in the upper triangle, -1 on the diagonal; what lies
  // below is no part of it.
  at::Tensor feedback;
  at::Tensor pivots;  // float32 [n], positive.
};

// The factor takes the place of `hessian`, float32 [n, n], contiguous and
// symmetric, whose strict lower triangle stays. None where it is not positive
// definite in float32. 2/3 n^3 operations and no second matrix on the CPU but
// a quarter of one.
std::optional<FeedbackFactor> FactorForFeedback(const at::Tensor& hessian);

struct DampingOptions {
  // The fraction of the mean diagonal added to the diagonal.
  double damp = 0.01;
  // What is added to the fraction after a failure, up to 1; 0: never retry.
  double increment = 0.01;
};

struct DampedFactor {
  FeedbackFactor factor;
  double damp = 0;
  // An absolute amount that was added besides; 0 in all but broken cases.
  double floor = 0;
};

// Raises the damping until the factorization succeeds: first the fraction by
// `increment` while it is below 1, then the same again above a floor on the
// diagonal of 1e-6, 1e-5 ... 0.1 of its largest entry. None where nothing
// helps. CANCELLED between attempts. The factor takes the place of `hessian`,
// as above.
absl::StatusOr<std::optional<DampedFactor>> FactorWithDamping(
    const at::Tensor& hessian, const DampingOptions& options,
    const base::CancelToken& cancel);

}  // namespace quantd::numerics
