// SPDX-License-Identifier: Apache-2.0
#include "worker/kernels/product.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "worker/kernels/operators.h"
#include "worker/kernels/operators_any.h"

namespace quantd::kernels {
namespace {

constexpr float kGarbage = 1e30f;

// left [m, k] times right [k, n] into `out`.
Product Shape(const at::Tensor& left, const at::Tensor& right,
              const at::Tensor& out) {
  Product p;
  p.rows = left.size(0);
  p.columns = right.size(1);
  p.depth = left.size(1);
  p.left = {left.data_ptr<float>(), left.stride(0), left.stride(1)};
  p.right = {right.data_ptr<float>(), right.stride(1), right.stride(0)};
  p.out = out.data_ptr<float>();
  p.out_stride = out.stride(0);
  return p;
}

double WorstError(const at::Tensor& value, const at::Tensor& truth) {
  return value.to(at::kDouble).sub(truth).abs().max().item<double>() /
         truth.abs().max().item<double>();
}

at::Tensor Exact(const at::Tensor& left, const at::Tensor& right) {
  return at::mm(left.to(at::kDouble), right.to(at::kDouble));
}

TEST(ProductTest, OddShapesAndStridesAgreeWithFloat64) {
  for (const int64_t m : {1, 5, 50}) {
    for (const int64_t n : {1, 23, 24, 100}) {
      for (const int64_t k : {1, 255, 256, 600}) {
        const at::Tensor left = at::randn({k, m}).t();
        const at::Tensor right = at::randn({k, n});
        const at::Tensor out = at::full({m, n}, kGarbage);
        Product p = Shape(left, right, out);
        p.accumulate = false;
        Multiply(p);
        EXPECT_LT(WorstError(out, Exact(left, right)), 1e-5);
        p.accumulate = true;
        Multiply(p);
        EXPECT_LT(WorstError(out, Exact(left, right).mul(2)), 1e-5);
      }
    }
  }
}

TEST(ProductTest, TheUpperTriangleIsAllThatIsWritten) {
  for (const int64_t n : {3, 47, 130}) {
    const at::Tensor x = at::randn({300, n});
    const at::Tensor out = at::full({n, n}, 7.0f);
    Product p = Shape(x.t(), x, out);
    p.accumulate = false;
    p.upper_only = true;
    Multiply(p);
    EXPECT_LT(WorstError(out.triu(), Exact(x.t(), x).triu()), 1e-5);
    EXPECT_TRUE(at::equal(out.tril(-1), at::full({n, n}, 7.0f).tril(-1)));
  }
}

TEST(ProductTest, TheZeroHalfOfATriangleIsNotRead) {
  const int64_t n = 300;
  const at::Tensor left = at::randn({n, n});
  const at::Tensor right = at::randn({n, n});
  const at::Tensor garbage = at::full({n, n}, kGarbage);
  const at::Tensor left_stored = left.triu().add(garbage.tril(-1));
  const at::Tensor right_stored = right.triu().add(garbage.tril(-1));
  const at::Tensor out = at::empty({n, n});
  Product p = Shape(left_stored, right_stored, out);
  p.accumulate = false;
  p.left.zeros = ZeroPart::kDepthBelowLine;
  p.right.zeros = ZeroPart::kDepthAboveLine;
  Multiply(p);
  EXPECT_LT(WorstError(out, Exact(left.triu(), right.triu())), 1e-5);
}

TEST(ProductTest, ADiagonalStandsBetween) {
  const at::Tensor left = at::randn({40, 300});
  const at::Tensor right = at::randn({300, 50});
  const at::Tensor scale = at::randn({300});
  const at::Tensor out = at::empty({40, 50});
  Product p = Shape(left, right, out);
  p.accumulate = false;
  p.depth_scale = scale.const_data_ptr<float>();
  Multiply(p);
  EXPECT_LT(WorstError(out, Exact(left.mul(scale), right)), 1e-5);
}

TEST(ProductTest, ThreadsDoNotChangeTheBits) {
  const int threads = at::get_num_threads();
  const at::Tensor x = at::randn({700, 333});
  at::Tensor first;
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    const at::Tensor out = at::full({333, 333}, 0.0f);
    Product p = Shape(x.t(), x, out);
    p.upper_only = true;
    Multiply(p);
    if (count == 1) first = out;
    EXPECT_TRUE(at::equal(first, out)) << count;
  }
  at::set_num_threads(threads);
}

TEST(OperatorsAnyTest, TheFactorIsThatOfTheCpu) {
  for (const int64_t n : {5, 130, 300}) {
    const at::Tensor x = at::randn({2 * n, n});
    const at::Tensor hessian = at::mm(x.t(), x);
    const at::Tensor ours = hessian.clone();
    const at::Tensor other = hessian.clone();
    const at::Tensor pivots = at::empty({n});
    const at::Tensor other_pivots = at::empty({n});
    ASSERT_TRUE(FeedbackFactor(ours, pivots));
    ASSERT_TRUE(FeedbackFactorAny(other, other_pivots));
    EXPECT_LT(WorstError(ours.triu(), other.triu().to(at::kDouble)), 1e-4);
    EXPECT_LT(WorstError(pivots, other_pivots.to(at::kDouble)), 1e-4);
    EXPECT_TRUE(at::equal(other.tril(-1), hessian.tril(-1)));
  }
}

TEST(GramEnergyTest, IsTheTraceInFloat64) {
  for (const int64_t rows : {1, 70, 1030}) {
    const at::Tensor a = at::randn({rows, 200});
    const at::Tensor x = at::randn({400, 200});
    const at::Tensor gram = at::mm(x.t(), x);
    const double truth =
        Exact(a, gram).mul(a.to(at::kDouble)).sum().item<double>();
    EXPECT_NEAR(GramEnergy(a, gram) / truth, 1, 1e-6);
    EXPECT_NEAR(GramEnergyAny(a, gram) / truth, 1, 1e-6);
  }
}

TEST(TokenLossesTest, AreTheLogSoftmaxInFloat64) {
  const at::Tensor logits = at::randn({9, 1003}).mul_(10);
  const at::Tensor targets = at::randint(1003, {9}, at::kLong);
  const at::Tensor truth = at::log_softmax(logits.to(at::kDouble), 1)
                               .gather(1, targets.unsqueeze(1))
                               .squeeze(1)
                               .neg();
  const TokenLosses ours = LossesOfTokens(logits, targets);
  EXPECT_LT(ours.losses.sub(truth).abs().max().item<double>(), 1e-6);
  EXPECT_TRUE(at::equal(ours.best, logits.argmax(1)));
  const auto [losses, best] = TokenLossesAny(logits, targets);
  EXPECT_LT(losses.sub(truth).abs().max().item<double>(), 1e-6);
  EXPECT_TRUE(at::equal(best, ours.best));
}

TEST(TokenLossesTest, OneLogitThatIsNotFiniteSpoilsItsRowAlone) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    for (const int64_t where : {0, 50, 99}) {
      const at::Tensor logits = at::randn({2, 100});
      logits[1][where] = bad;
      const at::Tensor targets = at::arange(2);
      const at::Tensor ours = LossesOfTokens(logits, targets).losses;
      const at::Tensor other = std::get<0>(TokenLossesAny(logits, targets));
      EXPECT_TRUE(std::isfinite(ours[0].item<double>()));
      EXPECT_FALSE(std::isfinite(ours[1].item<double>()));
      EXPECT_FALSE(std::isfinite(other[1].item<double>()));
    }
  }
}

TEST(TokenLossesTest, TheFirstOfEqualLogitsIsTheBest) {
  const at::Tensor logits = at::full({1, 77}, 1.0f);
  logits[0][20] = 3;
  logits[0][60] = 3;
  EXPECT_EQ(LossesOfTokens(logits, at::arange(1)).best.item<int64_t>(), 20);
}

}  // namespace
}  // namespace quantd::kernels
