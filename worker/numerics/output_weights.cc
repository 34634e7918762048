// SPDX-License-Identifier: Apache-2.0
#include "worker/numerics/output_weights.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

#include "proto/base/error.h"

namespace quantd::numerics {
namespace {

// Rows that are in float64 at once.
constexpr int64_t kRowsAtOnce = 1024;

// Calls `act` with every range of rows of `matrix`, in order, and with what it
// has there in float64.
template <typename Act>
void ForRows(const at::Tensor& matrix, const Act& act) {
  for (int64_t begin = 0; begin < matrix.size(0); begin += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, matrix.size(0) - begin);
    act(begin, count, matrix.narrow(0, begin, count).to(at::kDouble));
  }
}

}  // namespace

absl::StatusOr<at::Tensor> OutputWeights(const at::Tensor& gradient) {
  double squares = 0;
  ForRows(gradient, [&](int64_t, int64_t, const at::Tensor& rows) {
    squares += rows.square().sum().item<double>();
  });
  if (!std::isfinite(squares)) {
    return base::MakeError(absl::StatusCode::kFailedPrecondition,
                           "NON_FINITE_GRADIENT",
                           "the gradient of the float model's loss by the "
                           "block's output is not finite");
  }
  at::Tensor weights =
      at::empty(gradient.sizes(), gradient.options().dtype(at::kBFloat16));
  if (squares == 0) return weights.fill_(1);
  const double root =
      std::sqrt(squares / static_cast<double>(gradient.numel()));
  ForRows(gradient, [&](int64_t begin, int64_t count, const at::Tensor& rows) {
    weights.narrow(0, begin, count)
        .copy_(rows.abs().div_(root).add_(1).square_());
  });
  return weights;
}

}  // namespace quantd::numerics
