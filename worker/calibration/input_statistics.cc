// SPDX-License-Identifier: Apache-2.0
#include "worker/calibration/input_statistics.h"

#include <ATen/ops/isfinite.h>
#include <ATen/ops/maximum.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::calibration {

void InputStatistics::Divide(const at::Tensor& divisor) {
  largest = largest.div(divisor);
  mean = mean.div(divisor);
  if (!second.gram.defined()) return;
  const at::Tensor factor = divisor.to(second.gram.device());
  second.gram = second.gram.div(factor.unsqueeze(0)).div_(factor.unsqueeze(1));
}

absl::Status InputAccumulator::Add(const at::Tensor& input,
                                   const base::CancelToken& cancel) {
  const at::Tensor magnitude = input.abs();
  const at::Tensor largest = magnitude.amax(0);
  const at::Tensor sum = magnitude.sum(0, /*keepdim=*/false, at::kDouble);
  if (tokens_ == 0) {
    largest_ = largest;
    sum_ = sum;
    if (with_gram_) {
      gram_ = std::make_unique<GramAccumulator>(input.size(1), device_);
    }
  } else {
    largest_ = at::maximum(largest_, largest);
    sum_.add_(sum);
  }
  if (gram_ != nullptr) RETURN_IF_ERROR(gram_->Add(input, cancel));
  tokens_ += input.size(0);
  return absl::OkStatus();
}

absl::StatusOr<InputStatistics> InputAccumulator::Finish() {
  // The largest value of a feature with a NaN is NaN.
  if (tokens_ == 0 || !at::isfinite(sum_).all().item<bool>()) {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "NON_FINITE_ACTIVATION",
        absl::StrCat("the input of a stage is infinite or not a number in ",
                     tokens_, " calibration tokens"));
  }
  InputStatistics statistics;
  statistics.largest = std::exchange(largest_, at::Tensor()).cpu();
  statistics.mean = sum_.div(static_cast<double>(tokens_)).to(at::kFloat).cpu();
  statistics.second.tokens = tokens_;
  if (gram_ != nullptr) RETURN_IF_ERROR(gram_->Finish(&statistics.second));
  return statistics;
}

}  // namespace quantd::calibration
