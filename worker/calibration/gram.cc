// SPDX-License-Identifier: Apache-2.0
#include "worker/calibration/gram.h"

#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "worker/kernels/operators.h"

namespace quantd::calibration {
namespace {

// Copies the upper triangle below the diagonal, in place: a second matrix would
// be the largest thing in memory. False where an entry is not finite.
bool MirrorUpper(const at::Tensor& matrix) {
  constexpr int64_t kBlock = 256;
  const int64_t n = matrix.size(0);
  bool finite = true;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = std::min(kBlock, n - begin);
    const int64_t rest = n - begin - count;
    const at::Tensor rows = matrix.narrow(0, begin, count);
    const at::Tensor corner = rows.narrow(1, begin, count);
    corner.triu_();
    corner.add_(corner.triu(1).t());
    const at::Tensor right = rows.narrow(1, begin + count, rest);
    matrix.narrow(0, begin + count, rest)
        .narrow(1, begin, count)
        .copy_(right.t());
    finite = finite && at::isfinite(corner).all().item<bool>() &&
             at::isfinite(right).all().item<bool>();
  }
  return finite;
}

}  // namespace

GramAccumulator::GramAccumulator(int64_t in_features, at::Device device)
    : gram_(at::zeros({in_features, in_features},
                      at::TensorOptions(at::kFloat).device(device))) {}

void GramAccumulator::Add(const at::Tensor& input) {
  kernels::GramAdd(gram_, input);
  tokens_ += input.size(0);
}

absl::Status GramAccumulator::Finish(Statistics* statistics) {
  if (!MirrorUpper(gram_)) {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "NON_FINITE_ACTIVATION",
        absl::StrCat("the layer's input is infinite or not a number, or its "
                     "squares overflow, in ",
                     tokens_, " calibration tokens"));
  }
  statistics->gram = std::exchange(gram_, at::Tensor());
  statistics->tokens = tokens_;
  return absl::OkStatus();
}

}  // namespace quantd::calibration
