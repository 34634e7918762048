// SPDX-License-Identifier: Apache-2.0
#include "worker/calibration/gram.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "proto/base/error.h"

namespace quantd::calibration {
namespace {

at::Tensor RandomInput(int64_t tokens, int64_t in, uint32_t seed) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal;
  at::Tensor result = at::zeros({tokens, in});
  for (int64_t i = 0; i < result.numel(); ++i) {
    result.data_ptr<float>()[i] = normal(bits);
  }
  return result;
}

TEST(GramTest, SumsOuterProductsOverAllTokens) {
  for (const int64_t in : {1, 7, 128, 300, 513}) {
    GramAccumulator gram(in, at::kCPU);
    at::Tensor truth = at::zeros({in, in}, at::kDouble);
    for (const int64_t tokens : {1, 33, 2100}) {
      const at::Tensor input = RandomInput(tokens, in, tokens);
      ASSERT_TRUE(gram.Add(input, base::CancelToken()).ok());
      truth.add_(at::mm(input.t().to(at::kDouble), input.to(at::kDouble)));
    }
    Statistics statistics;
    ASSERT_TRUE(gram.Finish(&statistics).ok());
    EXPECT_EQ(statistics.tokens, 2134);
    EXPECT_TRUE(at::equal(statistics.gram, statistics.gram.t()));
    const double error =
        statistics.gram.to(at::kDouble).sub(truth).abs().max().item<double>();
    EXPECT_LT(error, 1e-5 * truth.abs().max().item<double>()) << in;
  }
}

TEST(GramTest, TheSameTokensGiveTheSameBits) {
  const at::Tensor input = RandomInput(3000, 200, 4);
  at::Tensor first;
  for (int run = 0; run < 3; ++run) {
    GramAccumulator gram(200, at::kCPU);
    ASSERT_TRUE(gram.Add(input.clone(), base::CancelToken()).ok());
    Statistics statistics;
    ASSERT_TRUE(gram.Finish(&statistics).ok());
    if (run == 0) first = statistics.gram;
    EXPECT_TRUE(at::equal(first, statistics.gram));
  }
}

// Some 40 GFLOP each time.
TEST(GramTest, LongSequencesAndTallMatricesAreCutToLookAtTheToken) {
  constexpr int64_t kFeatures = 4096;
  const at::Tensor rows = at::zeros({2400, kFeatures});
  base::CancelToken cancel;
  GramAccumulator gram(kFeatures, at::kCPU);
  ASSERT_TRUE(gram.Add(rows, cancel).ok());
  EXPECT_EQ(cancel.looks(), 2);
  Statistics statistics;
  ASSERT_TRUE(gram.Finish(&statistics).ok());
  EXPECT_EQ(statistics.tokens, 2400);
  ASSERT_TRUE(Energy(rows, statistics.gram, cancel).ok());
  EXPECT_EQ(cancel.looks(), 4);
  cancel.CancelAfter(5);
  EXPECT_TRUE(absl::IsCancelled(
      GramAccumulator(kFeatures, at::kCPU).Add(rows, cancel)));
  cancel.CancelAfter(7);
  EXPECT_TRUE(
      absl::IsCancelled(Energy(rows, statistics.gram, cancel).status()));
}

TEST(GramTest, SumsThatAreNotFiniteAreRefused) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), 1e30f}) {
    GramAccumulator gram(8, at::kCPU);
    at::Tensor input = RandomInput(4, 8, 1);
    input[2][3] = bad;
    ASSERT_TRUE(gram.Add(input, base::CancelToken()).ok());
    Statistics statistics;
    const absl::Status status = gram.Finish(&statistics);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(base::ErrorReason(status), "NON_FINITE_ACTIVATION");
  }
}

}  // namespace
}  // namespace quantd::calibration
