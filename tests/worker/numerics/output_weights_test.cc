// SPDX-License-Identifier: Apache-2.0
#include "worker/numerics/output_weights.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <limits>

#include "proto/base/error.h"

namespace quantd::numerics {
namespace {

TEST(OutputWeightsTest, AreThoseWorkedOutByHand) {
  // The root mean square of 3, -4, 0 and 0 is 2.5.
  const auto weights =
      OutputWeights(at::tensor({3.f, -4.f, 0.f, 0.f}).view({2, 2}));
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->scalar_type(), at::kBFloat16);
  // To the eight bits of bfloat16.
  EXPECT_NEAR((*weights)[0][0].item<float>(), 2.2 * 2.2, 0.02);
  EXPECT_NEAR((*weights)[0][1].item<float>(), 2.6 * 2.6, 0.02);
  EXPECT_EQ((*weights)[1][0].item<float>(), 1);
  EXPECT_EQ((*weights)[1][1].item<float>(), 1);
}

TEST(OutputWeightsTest, DoNotDependOnTheGradientsUnit) {
  const at::Tensor gradient = at::arange(-6, 6, at::kFloat).view({3, 4});
  const auto weights = OutputWeights(gradient);
  ASSERT_TRUE(weights.ok());
  for (const double unit : {1e-30, 1e-3, 1e30}) {
    const auto other = OutputWeights(gradient.mul(unit));
    ASSERT_TRUE(other.ok()) << other.status();
    EXPECT_TRUE(other->allclose(*weights, 0.01, 0)) << unit;
  }
}

TEST(OutputWeightsTest, WithoutAGradientAllErrorsCountAlike) {
  const auto weights = OutputWeights(at::zeros({3, 4}));
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_TRUE(weights->eq(1).all().item<bool>());
}

TEST(OutputWeightsTest, AGradientThatIsNotFiniteIsRefused) {
  for (const float bad : {std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    at::Tensor gradient = at::ones({3, 4});
    gradient[2][1] = bad;
    EXPECT_EQ(base::ErrorReason(OutputWeights(gradient).status()),
              "NON_FINITE_GRADIENT");
  }
}

}  // namespace
}  // namespace quantd::numerics
