// SPDX-License-Identifier: Apache-2.0
#include "worker/calibration/gram.h"

#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "worker/kernels/operators.h"

namespace quantd::calibration {

GramAccumulator::GramAccumulator(int64_t in_features, at::Device device)
    : gram_(at::zeros({in_features, in_features},
                      at::TensorOptions(at::kFloat).device(device))) {}

void GramAccumulator::Add(const at::Tensor& input) {
  kernels::GramAdd(gram_, input);
  tokens_ += input.size(0);
}

absl::Status GramAccumulator::Finish(Statistics* statistics) {
  const at::Tensor upper = gram_.triu();
  if (!at::isfinite(upper).all().item<bool>()) {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "NON_FINITE_ACTIVATION",
        absl::StrCat("the layer's input is infinite or not a number, or its "
                     "squares overflow, in ",
                     tokens_, " calibration tokens"));
  }
  statistics->gram = upper.add(upper.triu(1).t());
  statistics->tokens = tokens_;
  gram_ = at::Tensor();
  return absl::OkStatus();
}

}  // namespace quantd::calibration
