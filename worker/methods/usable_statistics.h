// SPDX-License-Identifier: Apache-2.0
// What every method that looks at a layer's input asks of its statistics, and
// what becomes of a layer whose statistics cannot be used.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "absl/status/statusor.h"
#include "worker/methods/method.h"

namespace quantd::methods {

// Why the Gram matrix of the problem cannot be that of its layer; empty where
// it can. Looks at no value of it.
std::string StatisticsProblem(const LinearProblem& problem);

// Why `gram`, [in, in] or its diagonal alone, is no sum of x x^T; empty where
// it may be one. Looks at all of it.
std::string MomentsProblem(const at::Tensor& gram);

// Both questions of the sums of squares.
std::string SquaresProblem(const LinearProblem& problem);

// Plain rounding with the verdict RTN_FALLBACK. Errors as of
// formats::RoundToNearest.
absl::StatusOr<LinearSolution> FallBackToNearest(
    const LinearProblem& problem, std::string reason,
    const base::CancelToken& cancel);

}  // namespace quantd::methods
