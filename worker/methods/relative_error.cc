// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/Tensor.h>
#include <ATen/ops/mm.h>

#include <algorithm>

#include "worker/methods/method.h"

namespace quantd::methods {
namespace {

// tr(A G A^T). The product is taken in float32, a strip of rows at a time to
// bound its memory; its many terms are summed in float64.
double Energy(const at::Tensor& a, const at::Tensor& gram) {
  constexpr int64_t kRows = 1024;
  double sum = 0;
  for (int64_t first = 0; first < a.size(0); first += kRows) {
    const at::Tensor rows =
        a.narrow(0, first, std::min(kRows, a.size(0) - first));
    const at::Tensor image = gram.defined() ? at::mm(rows, gram) : rows;
    sum += rows.to(at::kDouble).mul_(image).sum().item<double>();
  }
  return sum;
}

}  // namespace

double RelativeError(const at::Tensor& weight,
                     const formats::QuantizedLinear& linear,
                     const calibration::Statistics* statistics) {
  at::Tensor gram;
  if (statistics != nullptr) gram = statistics->gram;
  const at::Tensor difference =
      weight.sub(formats::Dequantize(linear).to(weight.device()));
  const double total = Energy(weight, gram);
  const double error = Energy(difference, gram);
  // A layer with no energy (all weights or inputs zero) loses none.
  return total > 0 ? error / total : 0;
}

}  // namespace quantd::methods
