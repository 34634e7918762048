// SPDX-License-Identifier: Apache-2.0
// What transforms may ask for about the input of a stage.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/base/cancel.h"
#include "worker/calibration/gram.h"

namespace quantd::calibration {

// Over all calibration tokens; on the CPU but for the Gram matrix, which is on
// the device of the weights. All finite.
struct InputStatistics {
  // float32 [in]: the largest |x|.
  at::Tensor largest;
  // float32 [in]: the mean of |x|.
  at::Tensor mean;
  // Its matrix is undefined where nobody asked for it.
  Statistics second;

  // What the same tokens give once input feature j is divided by divisor[j],
  // float32 [in] on the CPU.
  void Divide(const at::Tensor& divisor);
};

// One fixed order of sums, so that the same tokens give the same bits. The
// first input decides how many features there are.
class InputAccumulator {
 public:
  InputAccumulator(bool with_gram, at::Device device)
      : with_gram_(with_gram), device_(device) {}
  // `input` float32 [tokens, in]. CANCELLED, as of GramAccumulator.
  absl::Status Add(const at::Tensor& input, const base::CancelToken& cancel);
  int64_t tokens() const { return tokens_; }
  // INVALID_ARGUMENT, NON_FINITE_ACTIVATION, where a value or a sum is not
  // finite or nothing was added.
  absl::StatusOr<InputStatistics> Finish();

 private:
  const bool with_gram_;
  const at::Device device_;
  at::Tensor largest_;
  // float64: the sum of |x|.
  at::Tensor sum_;
  int64_t tokens_ = 0;
  std::unique_ptr<GramAccumulator> gram_;
};

}  // namespace quantd::calibration
