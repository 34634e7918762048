// SPDX-License-Identifier: Apache-2.0
#include "worker/calibration/gram.h"

#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
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

// Rows whose product with their own transpose, or with a Gram matrix, is some
// 40 GFLOP; a device needs no second for all of them. Follows from the shape
// alone, as the order of sums does from it.
int64_t RowsAtATime(const at::Tensor& rows) {
  constexpr int64_t kFlops = 40'000'000'000;
  constexpr int64_t kLeast = 64;  // Fewer waste the product.
  if (!rows.is_cpu()) return std::max<int64_t>(1, rows.size(0));
  return std::max(kLeast, kFlops / (rows.size(1) * rows.size(1)));
}

absl::Status NotFinite(int64_t tokens) {
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "NON_FINITE_ACTIVATION",
      absl::StrCat("the layer's input is infinite or not a number, or its "
                   "squares overflow, in ",
                   tokens, " calibration tokens"));
}

}  // namespace

at::Tensor SquaresOf(const Statistics& statistics) {
  return statistics.gram.defined() ? statistics.gram.diagonal()
                                   : statistics.squares;
}

GramAccumulator::GramAccumulator(int64_t in_features, at::Device device)
    : gram_(at::zeros({in_features, in_features},
                      at::TensorOptions(at::kFloat).device(device))) {}

absl::Status GramAccumulator::Add(const at::Tensor& input,
                                  const base::CancelToken& cancel) {
  const int64_t step = RowsAtATime(input);
  for (int64_t begin = 0; begin < input.size(0); begin += step) {
    RETURN_IF_ERROR(cancel.Check());
    kernels::GramAdd(gram_, input.slice(0, begin, begin + step));
  }
  tokens_ += input.size(0);
  return absl::OkStatus();
}

absl::Status GramAccumulator::AddDrift(const at::Tensor& input,
                                       const at::Tensor& reference,
                                       const base::CancelToken& cancel) {
  if (!drift_known_) return absl::OkStatus();
  if (!drift_.defined()) drift_ = at::zeros_like(gram_);
  const int64_t step = RowsAtATime(input);
  for (int64_t begin = 0; begin < input.size(0); begin += step) {
    RETURN_IF_ERROR(cancel.Check());
    const at::Tensor rows = input.slice(0, begin, begin + step);
    drift_.addmm_(reference.slice(0, begin, begin + step).sub(rows).t(), rows);
  }
  return absl::OkStatus();
}

void GramAccumulator::GiveUpDrift() {
  drift_known_ = false;
  drift_ = at::Tensor();
}

absl::Status GramAccumulator::Finish(Statistics* statistics) {
  if (!MirrorUpper(gram_) ||
      (drift_.defined() && !at::isfinite(drift_).all().item<bool>())) {
    return NotFinite(tokens_);
  }
  statistics->gram = std::exchange(gram_, at::Tensor());
  statistics->drift = std::exchange(drift_, at::Tensor());
  statistics->tokens = tokens_;
  return absl::OkStatus();
}

absl::StatusOr<double> Energy(const at::Tensor& rows, const at::Tensor& gram,
                              const base::CancelToken& cancel) {
  const int64_t step = RowsAtATime(rows);
  double energy = 0;
  for (int64_t begin = 0; begin < rows.size(0); begin += step) {
    RETURN_IF_ERROR(cancel.Check());
    energy += kernels::GramEnergy(rows.slice(0, begin, begin + step), gram);
  }
  return energy;
}

SquareAccumulator::SquareAccumulator(int64_t in_features, at::Device device)
    : squares_(at::zeros({in_features},
                         at::TensorOptions(at::kDouble).device(device))) {}

void SquareAccumulator::Add(const at::Tensor& input) {
  squares_.add_(input.square().sum(0, /*keepdim=*/false, at::kDouble));
  tokens_ += input.size(0);
}

absl::Status SquareAccumulator::Finish(Statistics* statistics) {
  statistics->squares = squares_.to(at::kFloat);
  statistics->tokens = tokens_;
  return at::isfinite(statistics->squares).all().item<bool>()
             ? absl::OkStatus()
             : NotFinite(tokens_);
}

}  // namespace quantd::calibration
