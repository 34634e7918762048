// SPDX-License-Identifier: Apache-2.0
#include "worker/numerics/feedback_factor.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

namespace quantd::numerics {
namespace {

at::Tensor RandomHessian(int64_t n) {
  const at::Tensor x = at::randn({2 * n, n});
  return at::mm(x.t(), x);
}

TEST(FeedbackFactorTest, FactorsMultiplyToTheHessian) {
  for (const int64_t n : {1, 2, 17, 48, 49, 97, 100, 200, 450}) {
    const at::Tensor hessian = RandomHessian(n);
    const auto factor = FactorForFeedback(hessian.clone());
    ASSERT_TRUE(factor.has_value());
    EXPECT_TRUE(at::equal(factor->feedback.tril(-1), hessian.tril(-1)));
    const at::Tensor inverse = factor->feedback.to(at::kDouble).neg().triu();
    EXPECT_TRUE(
        at::equal(inverse.diagonal(), at::eye(n, at::kDouble).diagonal()));
    const at::Tensor m = at::linalg_inv(inverse);
    const at::Tensor product =
        at::mm(m.mul(factor->pivots.to(at::kDouble)), m.t());
    const double error = product.sub(hessian).abs().max().item<double>();
    EXPECT_LT(error, 1e-5 * hessian.abs().max().item<double>());
  }
}

TEST(FeedbackFactorTest, HandComputedTwoByTwo) {
  // [[2, 1], [1, 1]] = [[1, 1], [0, 1]] diag(1, 1) [[1, 0], [1, 1]], and the
  // inverse of [[1, 1], [0, 1]] is [[1, -1], [0, 1]].
  at::Tensor hessian = at::eye(2);
  hessian[0][0] = 2;
  hessian[0][1] = 1;
  hessian[1][0] = 1;
  const auto factor = FactorForFeedback(hessian);
  ASSERT_TRUE(factor.has_value());
  EXPECT_FLOAT_EQ(factor->feedback[0][1].item<float>(), 1);
  EXPECT_FLOAT_EQ(factor->pivots[0].item<float>(), 1);
  EXPECT_FLOAT_EQ(factor->pivots[1].item<float>(), 1);
}

TEST(FeedbackFactorTest, IndefiniteMatricesHaveNone) {
  at::Tensor hessian = at::eye(3);
  hessian[0][1] = 2;
  hessian[1][0] = 2;
  EXPECT_FALSE(FactorForFeedback(hessian).has_value());
  EXPECT_FALSE(FactorForFeedback(at::zeros({3, 3})).has_value());
}

TEST(FeedbackFactorTest, FloorsFollowWhereAFractionOfTheMeanCannotHelp) {
  // The mean of the diagonal is 0, so no fraction of it lifts anything; a floor
  // of 0.1 times the largest entry does not either: nothing helps.
  at::Tensor hopeless = at::eye(2);
  hopeless[1][1] = -1;
  auto result = FactorWithDamping(hopeless, {0.01, 0.25}, {});
  ASSERT_TRUE(result.ok());
  EXPECT_FALSE(result->has_value());
  // Here 0.1 is enough: eigenvalues 1 and -0.05 about a mean of nearly 0.
  at::Tensor weak = at::zeros({21, 21});
  weak.diagonal().fill_(-0.05);
  weak[0][0] = 1;
  result = FactorWithDamping(weak, {0.01, 0.25}, {});
  ASSERT_TRUE(result.ok());
  ASSERT_TRUE(result->has_value());
  EXPECT_NEAR((*result)->floor, 0.1, 1e-6);
}

TEST(FeedbackFactorTest, StopsBetweenAttempts) {
  base::CancelToken cancel;
  cancel.Cancel();
  EXPECT_EQ(FactorWithDamping(at::eye(2), {}, cancel).status().code(),
            absl::StatusCode::kCancelled);
}

TEST(FeedbackFactorTest, RunsGiveTheSameBits) {
  const at::Tensor hessian = RandomHessian(700);
  const auto first = FactorForFeedback(hessian.clone());
  for (int i = 0; i < 3; ++i) {
    const auto again = FactorForFeedback(hessian.clone());
    EXPECT_TRUE(at::equal(first->feedback, again->feedback));
    EXPECT_TRUE(at::equal(first->pivots, again->pivots));
  }
}

}  // namespace
}  // namespace quantd::numerics
