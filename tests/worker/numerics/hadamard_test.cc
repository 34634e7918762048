// SPDX-License-Identifier: Apache-2.0
#include "worker/numerics/hadamard.h"

#include <ATen/ops/eye.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

namespace quantd::numerics {
namespace {

at::Tensor Matrix(int64_t order) {
  return TimesHadamard(at::eye(order, at::kDouble), order);
}

class HadamardOrder : public testing::TestWithParam<int64_t> {};

// In float64, sums of 1 and -1 are exact.
TEST_P(HadamardOrder, HasEntriesOfOneAndRowsThatAreOrthogonal) {
  const int64_t n = GetParam();
  ASSERT_TRUE(HasHadamard(n));
  const at::Tensor h = Matrix(n);
  EXPECT_TRUE(h.abs().eq(1).all().item<bool>());
  EXPECT_TRUE(at::mm(h, h.t()).equal(at::eye(n, at::kDouble).mul(n)));
}

// Powers of two, both Paley constructions, the circulants, and doublings.
INSTANTIATE_TEST_SUITE_P(Bases, HadamardOrder,
                         testing::Values(1, 2, 4, 64, 12, 20, 24, 28, 36, 40,
                                         44, 52, 60, 76, 104, 108, 140, 148,
                                         156, 172, 344, 896, 924));

TEST(HadamardTest, EveryModelDimensionHasAMatrixOfItsOwnOrder) {
  for (const int64_t n : {576,   768,   896,   1024,  2048,  2560,  3072, 3584,
                          4096,  4864,  5120,  5632,  8192,  8960,  9728, 11008,
                          12288, 13824, 14336, 18944, 27648, 28672, 29568}) {
    EXPECT_TRUE(HasHadamard(n)) << n;
    EXPECT_EQ(HadamardBlock(n), n);
  }
}

TEST(HadamardTest, EveryHeadSizeHasAMatrixOfItsOwnOrder) {
  for (const int64_t n : {64, 80, 96, 128, 256}) {
    const at::Tensor h = Matrix(n);
    EXPECT_TRUE(at::mm(h, h.t()).equal(at::eye(n, at::kDouble).mul(n))) << n;
  }
}

TEST(HadamardTest, OtherSizesFallBackToADivisor) {
  EXPECT_FALSE(HasHadamard(6));
  EXPECT_EQ(HadamardBlock(6), 2);
  EXPECT_EQ(HadamardBlock(7), 1);
  // 4 * 23 = 92: neither 91 nor 45 is prime.
  EXPECT_FALSE(HasHadamard(92));
  EXPECT_EQ(HadamardBlock(92), 4);
}

// Vectors of every width: whole ones, several, and less than one.
class FloatHadamard : public testing::TestWithParam<int64_t> {};

TEST_P(FloatHadamard, GivesTheSumsOfFloat64) {
  const int64_t n = GetParam();
  // Sums of small whole numbers are exact in both.
  const at::Tensor x = at::randint(-9, 10, {3, 2 * n}, at::kFloat);
  EXPECT_TRUE(TimesHadamard(x, n)
                  .to(at::kDouble)
                  .equal(TimesHadamard(x.to(at::kDouble), n)));
  EXPECT_TRUE(TimesHadamardTransposed(x, n)
                  .to(at::kDouble)
                  .equal(TimesHadamardTransposed(x.to(at::kDouble), n)));
}

TEST_P(FloatHadamard, ItsTransposeTurnsBack) {
  const int64_t n = GetParam();
  const at::Tensor x = at::randint(-9, 10, {2, n}, at::kFloat);
  EXPECT_TRUE(TimesHadamardTransposed(TimesHadamard(x, n), n)
                  .equal(x.mul(static_cast<double>(n))));
}

TEST_P(FloatHadamard, ARowDependsOnNoOther) {
  const int64_t n = GetParam();
  const at::Tensor x = at::randn({70, n}, at::kFloat);
  const at::Tensor all = TimesHadamard(x, n);
  for (const int64_t row : {0, 1, 69}) {
    EXPECT_TRUE(
        TimesHadamard(x.narrow(0, row, 1), n).equal(all.narrow(0, row, 1)));
  }
}

TEST_P(FloatHadamard, GradientsPassAndAreThoseOfAMatrix) {
  const int64_t n = GetParam();
  const at::Tensor x = at::randint(-9, 10, {2, n}, at::kFloat).requires_grad_();
  const at::Tensor y = TimesHadamard(x, n);
  EXPECT_TRUE(y.detach().equal(TimesHadamard(x.detach(), n)));
  const at::Tensor w = at::randint(-9, 10, {2, n}, at::kFloat);
  y.mul(w).sum().backward();
  EXPECT_TRUE(x.grad().equal(TimesHadamardTransposed(w, n)));
}

INSTANTIATE_TEST_SUITE_P(Orders, FloatHadamard,
                         testing::Values(1, 2, 4, 8, 16, 32, 64, 80, 96, 128,
                                         256, 12, 24, 28, 44, 172, 576, 896,
                                         1184, 11008));

TEST(HadamardTest, BlocksAreMultipliedEachByTheMatrix) {
  const at::Tensor x = at::randn({3, 60}, at::kDouble);
  const at::Tensor y = TimesHadamard(x, 20);
  for (int64_t block = 0; block < 3; ++block) {
    const at::Tensor expected = at::mm(x.narrow(1, 20 * block, 20), Matrix(20));
    EXPECT_LT(
        y.narrow(1, 20 * block, 20).sub(expected).abs().max().item<double>(),
        1e-12);
  }
}

}  // namespace
}  // namespace quantd::numerics
