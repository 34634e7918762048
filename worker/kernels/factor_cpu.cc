// SPDX-License-Identifier: Apache-2.0
// Factor and inverse in one recursion, in products alone. With
//   H = [A B; B^T C],  M = [M1 M12; 0 M2],  D = diag(D1, D2),  N = M^-1:
//   C = M2 D2 M2^T                  the lower half first, which gives N2, D2;
//   Z = B N2^T = M12 D2
//   A - Z D2^-1 Z^T = M1 D1 M1^T    the upper half, which gives N1, D1;
//   N12 = -N1 (Z D2^-1) N2.
// 2/3 n^3 in all. A triangular solve would be as many operations, but slower.
#include "worker/kernels/factor_cpu.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "hwy/aligned_allocator.h"
#include "worker/kernels/product.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/kernels/factor_cpu.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quantd::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kLeaf = 48;

// to[i] -= factor * from[i].
HWY_ATTR void SubtractScaled(float factor, const float* from, int64_t n,
                             float* to) {
  const hn::CappedTag<float, 16> f;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  const auto minus = hn::Set(f, -factor);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::MulAdd(minus, hn::LoadU(f, from + i), hn::LoadU(f, to + i)),
               f, to + i);
  }
  for (; i < n; ++i) to[i] = std::fma(-factor, from[i], to[i]);
}

// The whole of it for at most kLeaf rows, from the last column backwards.
HWY_ATTR bool Leaf(float* m, int64_t stride, int64_t n, float* pivots) {
  for (int64_t j = n - 1; j >= 0; --j) {
    const float pivot = m[j * stride + j];
    if (!(pivot > 0) || !std::isfinite(pivot)) return false;
    pivots[j] = pivot;
    m[j * stride + j] = 1;
    float column[kLeaf];
    for (int64_t i = 0; i < j; ++i) {
      column[i] = m[i * stride + j] / pivot;
      m[i * stride + j] = column[i];
    }
    for (int64_t i = 0; i < j; ++i) {
      float* row = m + i * stride;
      SubtractScaled(column[i] * pivot, column + i, j - i, row + i);
    }
  }
  // N = M^-1: row i of it is e_i - sum_{k > i} M_ik (row k of N).
  for (int64_t i = n - 1; i >= 0; --i) {
    float* row = m + i * stride;
    float factors[kLeaf];
    std::copy(row + i + 1, row + n, factors + i + 1);
    std::fill(row + i + 1, row + n, 0.0f);
    for (int64_t k = i + 1; k < n; ++k) {
      SubtractScaled(factors[k], m + k * stride + k, n - k, row + k);
    }
  }
  return true;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd::kernels {
namespace {

HWY_EXPORT(Leaf);

constexpr int64_t kLargestLeaf = 48;

class Recursion {
 public:
  Recursion(int64_t stride, int64_t n)
      : stride_(stride), reciprocals_(n), work_(nullptr) {
    if (n <= kLargestLeaf) return;
    // Halves are rounded to leaves, so that those of a part may be larger than
    // those of the whole; no product of two halves is above the square's.
    work_ = hwy::AllocateAligned<float>((n * n + 3) / 4);
  }

  bool Run(float* m, int64_t n, float* pivots) {
    if (n <= kLargestLeaf) {
      return HWY_DYNAMIC_DISPATCH(Leaf)(m, stride_, n, pivots);
    }
    const int64_t upper = Split(n);
    const int64_t lower = n - upper;
    float* right = m + upper;
    float* corner = m + upper * stride_ + upper;
    if (!Run(corner, lower, pivots + upper)) return false;
    Eliminate(m, upper, lower, pivots + upper);
    if (!Run(m, upper, pivots)) return false;
    // N12 = -N1 X, X in its place.
    Product p = Shape(upper, lower, upper);
    p.left = {m, stride_, 1, ZeroPart::kDepthBelowLine};
    p.right = {right, 1, stride_};
    p.out = work_.get();
    p.out_stride = lower;
    Multiply(p);
    for (int64_t i = 0; i < upper; ++i) {
      const float* from = work_.get() + i * lower;
      std::transform(from, from + lower, right + i * stride_,
                     [](float x) { return -x; });
    }
    return true;
  }

 private:
  static int64_t Split(int64_t n) {
    return (n / 2 + kLargestLeaf - 1) / kLargestLeaf * kLargestLeaf;
  }

  static Product Shape(int64_t rows, int64_t columns, int64_t depth) {
    Product p;
    p.rows = rows;
    p.columns = columns;
    p.depth = depth;
    p.accumulate = false;
    return p;
  }

  // From B, N2 and D2: A - Z D2^-1 Z^T in the place of A, and Z D2^-1 N2 in
  // that of B.
  void Eliminate(float* m, int64_t upper, int64_t lower, const float* pivots) {
    float* right = m + upper;
    const float* corner = m + upper * stride_ + upper;
    float* z = work_.get();
    Product p = Shape(upper, lower, lower);
    p.left = {right, stride_, 1};
    p.right = {corner, stride_, 1, ZeroPart::kDepthBelowLine};
    p.out = z;
    p.out_stride = lower;
    Multiply(p);

    p = Shape(upper, upper, lower);
    p.left = {z, lower, 1};
    p.right = {z, lower, 1};
    p.depth_scale = Reciprocals(pivots, lower, -1);
    p.out = m;
    p.out_stride = stride_;
    p.accumulate = true;
    p.upper_only = true;
    Multiply(p);

    p = Shape(upper, lower, lower);
    p.left = {z, lower, 1};
    p.right = {corner, 1, stride_, ZeroPart::kDepthAboveLine};
    p.depth_scale = Reciprocals(pivots, lower, 1);
    p.out = right;
    p.out_stride = stride_;
    Multiply(p);
  }

  const float* Reciprocals(const float* pivots, int64_t n, float numerator) {
    for (int64_t i = 0; i < n; ++i) reciprocals_[i] = numerator / pivots[i];
    return reciprocals_.data();
  }

  const int64_t stride_;
  std::vector<float> reciprocals_;
  // Holds any off-diagonal block.
  hwy::AlignedFreeUniquePtr<float[]> work_;
};

}  // namespace

bool FactorInverse(float* matrix, int64_t stride, int64_t n, float* pivots) {
  return Recursion(stride, n).Run(matrix, n, pivots);
}

}  // namespace quantd::kernels
#endif  // HWY_ONCE
