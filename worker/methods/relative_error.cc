// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/Tensor.h>
#include <ATen/ops/sum.h>

#include "proto/base/status_macros.h"
#include "worker/calibration/gram.h"
#include "worker/methods/method.h"

namespace quantd::methods {

absl::StatusOr<double> OutputEnergy(const at::Tensor& rows,
                                    const calibration::Statistics* statistics,
                                    const base::CancelToken& cancel) {
  if (statistics != nullptr && statistics->gram.defined()) {
    return calibration::Energy(rows, statistics->gram, cancel);
  }
  at::Tensor energy = rows.square();
  if (statistics != nullptr && statistics->squares.defined()) {
    energy.mul_(statistics->squares.to(rows.device()));
  }
  return energy.sum(at::kDouble).item<double>();
}

absl::StatusOr<double> RelativeError(const at::Tensor& weight,
                                     const formats::QuantizedLinear& linear,
                                     const calibration::Statistics* statistics,
                                     double energy,
                                     const base::CancelToken& cancel) {
  const at::Tensor difference =
      formats::Dequantize(linear).to(weight.device()).sub_(weight);
  ASSIGN_OR_RETURN(const double error,
                   OutputEnergy(difference, statistics, cancel));
  // A layer with no energy (all weights or inputs zero) loses none.
  return energy > 0 ? error / energy : 0;
}

double RelativeError(const at::Tensor& weight,
                     const formats::QuantizedLinear& linear,
                     const calibration::Statistics* statistics) {
  const base::CancelToken never;
  return *RelativeError(weight, linear, statistics,
                        *OutputEnergy(weight, statistics, never), never);
}

}  // namespace quantd::methods
