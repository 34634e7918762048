// SPDX-License-Identifier: Apache-2.0
#include "worker/kernels/operators_any.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

namespace quantd::kernels {
namespace {

// Upper triangle of gram[begin:end, begin:end]: the square above the diagonal
// as one product, then both halves. At the leaves the whole block is computed,
// 128 columns of C, which wastes a share of 128 / C.
void AddTriangle(const at::Tensor& gram, const at::Tensor& input, int64_t begin,
                 int64_t end) {
  constexpr int64_t kLeaf = 128;
  const int64_t n = end - begin;
  if (n <= kLeaf) {
    const at::Tensor x = input.narrow(1, begin, n);
    gram.narrow(0, begin, n).narrow(1, begin, n).addmm_(x.t(), x);
    return;
  }
  const int64_t middle = begin + (n / 2 + kLeaf - 1) / kLeaf * kLeaf;
  const at::Tensor left = input.narrow(1, begin, middle - begin);
  const at::Tensor right = input.narrow(1, middle, end - middle);
  gram.narrow(0, begin, middle - begin)
      .narrow(1, middle, end - middle)
      .addmm_(left.t(), right);
  AddTriangle(gram, input, begin, middle);
  AddTriangle(gram, input, middle, end);
}

// Writes -m^-1 for a unit upper triangular m into `result`, zero before. With
//   m = [A B; 0 C]: m^-1 = [A^-1, -A^-1 B C^-1; 0, C^-1],
// the corner by two triangular solves, so that zeros are never multiplied.
void NegatedInverse(const at::Tensor& m, const at::Tensor& result) {
  constexpr int64_t kLeaf = 128;
  const int64_t n = m.size(0);
  if (n <= kLeaf) {
    result.copy_(
        at::linalg_solve_triangular(m, at::eye(n, m.options()), /*upper=*/true,
                                    /*left=*/true, /*unitriangular=*/true)
            .neg_());
    return;
  }
  const int64_t half = (n / 2 + kLeaf - 1) / kLeaf * kLeaf;
  const at::Tensor a = m.narrow(0, 0, half).narrow(1, 0, half);
  const at::Tensor b = m.narrow(0, 0, half).narrow(1, half, n - half);
  const at::Tensor c = m.narrow(0, half, n - half).narrow(1, half, n - half);
  const at::Tensor left = at::linalg_solve_triangular(a, b, true, true, true);
  result.narrow(0, 0, half)
      .narrow(1, half, n - half)
      .copy_(at::linalg_solve_triangular(c, left, true, false, true));
  NegatedInverse(a, result.narrow(0, 0, half).narrow(1, 0, half));
  NegatedInverse(c, result.narrow(0, half, n - half).narrow(1, half, n - half));
}

}  // namespace

void GramAddAny(const at::Tensor& gram, const at::Tensor& input) {
  // Tokens per product: bounds the packing buffers and fixes the order of sums.
  constexpr int64_t kChunk = 2048;
  for (int64_t first = 0; first < input.size(0); first += kChunk) {
    const int64_t n = std::min(kChunk, input.size(0) - first);
    AddTriangle(gram, input.narrow(0, first, n), 0, gram.size(0));
  }
}

bool FeedbackFactorAny(const at::Tensor& matrix, const at::Tensor& pivots) {
  // With P the reversal, P H P = L L^T gives H = R R^T, R = P L P upper
  // triangular; then M = R / diag(R) by columns. The reversed upper triangle is
  // the lower one, the only one that is read.
  auto [lower, code] = at::linalg_cholesky_ex(matrix.flip({0, 1}));
  if (code.item<int32_t>() != 0) return false;
  const at::Tensor unit = lower.flip({0, 1});
  const at::Tensor diagonal = unit.diagonal().clone();
  pivots.copy_(diagonal.square());
  unit.div_(diagonal);
  const at::Tensor feedback =
      at::zeros_like(unit, at::MemoryFormat::Contiguous);
  NegatedInverse(unit, feedback);
  // LAPACK lets NaN through, and a pivot may underflow when squared.
  const bool usable = pivots.gt(0).all().item<bool>() &&
                      at::isfinite(feedback).all().item<bool>();
  matrix.copy_(feedback.add_(matrix.tril(-1)));
  return usable;
}

double GramEnergyAny(const at::Tensor& rows, const at::Tensor& gram) {
  // Strips bound the memory of the product.
  constexpr int64_t kStrip = 1024;
  double sum = 0;
  for (int64_t first = 0; first < rows.size(0); first += kStrip) {
    const at::Tensor a =
        rows.narrow(0, first, std::min(kStrip, rows.size(0) - first));
    sum += a.to(at::kDouble).mul_(at::mm(a, gram)).sum().item<double>();
  }
  return sum;
}

std::tuple<at::Tensor, at::Tensor> TokenLossesAny(const at::Tensor& logits,
                                                  const at::Tensor& targets) {
  // log-softmax = (x - max) - log(sum exp(x - max)): no overflow, and a sum of
  // 10^5 terms keeps its digits in float64.
  const at::Tensor high = logits.amax(1, /*keepdim=*/true);
  const at::Tensor at_target = logits.gather(1, targets.unsqueeze(1));
  const at::Tensor log_sum =
      logits.sub(high).exp_().sum(1, /*keepdim=*/true, at::kDouble).log_();
  const at::Tensor loss =
      log_sum.sub(at_target.to(at::kDouble).sub_(high)).squeeze(1);
  // NaN and infinities times 0 are NaN.
  return {loss.add(logits.mul(0).sum(1)), logits.argmax(1)};
}

}  // namespace quantd::kernels
