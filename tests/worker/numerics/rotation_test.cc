// SPDX-License-Identifier: Apache-2.0
#include "worker/numerics/rotation.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

namespace quantd::numerics {
namespace {

double Largest(const at::Tensor& x) { return x.abs().max().item<double>(); }

TEST(RotationTest, FourFeaturesByHand) {
  const at::Tensor x = at::tensor({1.0f, 2.0f, 3.0f, 4.0f}).view({1, 4});
  const Rotation plain = Rotation::Plain(4);
  EXPECT_TRUE(plain.Apply(x).equal(
      at::tensor({5.0f, -1.0f, -2.0f, 0.0f}).view({1, 4})));
  EXPECT_TRUE(plain.Undo(plain.Apply(x)).equal(x));
}

class RotationWidth : public testing::TestWithParam<int64_t> {};

TEST_P(RotationWidth, KeepsLengthsAndTurnsBack) {
  for (const Rotation& rotation :
       {Rotation::Plain(GetParam()), Rotation::Randomized(GetParam(), 3)}) {
    const at::Tensor x = at::randn({5, GetParam()}, at::kFloat);
    const at::Tensor turned = rotation.Apply(x);
    EXPECT_TRUE(at::allclose(turned.norm(2, {1}), x.norm(2, {1}), 1e-5, 1e-6));
    EXPECT_LT(Largest(rotation.Undo(turned).sub(x)), 1e-5);
  }
}

TEST_P(RotationWidth, ARotatedWeightTakesRotatedInputs) {
  const Rotation rotation = Rotation::Randomized(GetParam(), 1);
  const at::Tensor x = at::randn({5, GetParam()}, at::kFloat);
  const at::Tensor w = at::randn({7, GetParam()}, at::kFloat);
  const at::Tensor expected = at::mm(x, w.t());
  const at::Tensor weight = rotation.ApplyToWeight(w, at::kFloat);
  EXPECT_LT(Largest(at::mm(rotation.Apply(x), weight.t()).sub(expected)),
            1e-5 * Largest(expected) + 1e-5);
  EXPECT_LT(Largest(rotation.UndoOnWeight(weight, at::kFloat).sub(w)), 1e-6);
}

// 92 and 7 have no matrix of their own order.
INSTANTIATE_TEST_SUITE_P(Widths, RotationWidth,
                         testing::Values(1, 7, 12, 64, 92, 128, 576, 11008));

TEST(RotationTest, OneLoudFeatureIsSpreadOverAll) {
  at::Tensor x = at::zeros({1, 576}, at::kFloat);
  x[0][7] = 576;
  const at::Tensor turned = Rotation::Randomized(576, 0).Apply(x).abs();
  EXPECT_NEAR(turned.max().item<double>(), 24, 1e-3);
  EXPECT_NEAR(turned.min().item<double>(), 24, 1e-3);
}

TEST(RotationTest, SeedsNameRotations) {
  const at::Tensor x = at::randn({1, 64}, at::kFloat);
  const at::Tensor one = Rotation::Randomized(64, 1).Apply(x);
  EXPECT_TRUE(Rotation::Randomized(64, 1).Apply(x).equal(one));
  EXPECT_FALSE(Rotation::Randomized(64, 2).Apply(x).equal(one));
  EXPECT_FALSE(Rotation::Plain(64).Apply(x).equal(one));
  EXPECT_EQ(Rotation::Randomized(64, 2).seed(), 2u);
}

TEST(RotationTest, WeightsAreRoundedToTheTypeThatIsAskedFor) {
  const Rotation rotation = Rotation::Randomized(64, 1);
  const at::Tensor w = at::randn({3, 64}, at::kFloat);
  EXPECT_TRUE(rotation.UndoOnWeight(w, at::kBFloat16)
                  .equal(rotation.Undo(w.to(at::kDouble)).to(at::kBFloat16)));
}

}  // namespace
}  // namespace quantd::numerics
