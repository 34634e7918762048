// SPDX-License-Identifier: Apache-2.0
#include "worker/numerics/largest_prox.h"

#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

namespace quantd::numerics {
namespace {

at::Tensor Cut(std::vector<float> values, double t, int64_t group_size) {
  const at::Tensor rows = at::tensor(values).unsqueeze(0);
  CutLargest(t, group_size, rows);
  return rows.squeeze(0);
}

bool Same(const at::Tensor& values, std::vector<float> expected) {
  return values.allclose(at::tensor(expected), 0, 1e-6);
}

// 5 - 3.5 + 4 - 3.5 = 2: what is cut off sums to t.
TEST(LargestProxTest, CutsOffWhatSumsToT) {
  EXPECT_TRUE(Same(Cut({5, -4, 1, 0}, 2, 4), {3.5f, -3.5f, 1, 0}));
  EXPECT_TRUE(Same(Cut({5, -4, 1, 0}, 0.5, 4), {4.5f, -4, 1, 0}));
  // All four: (5 + 4 + 1 + 0) - 4 c = 7 would need c = 0.75 and leaves 0 out.
  EXPECT_TRUE(Same(Cut({5, -4, 1, 0}, 7, 4), {1, -1, 1, 0}));
}

TEST(LargestProxTest, LessThanTInAllBecomesZero) {
  EXPECT_TRUE(Same(Cut({5, -4, 1, 0}, 10, 4), {0, 0, 0, 0}));
  EXPECT_TRUE(Same(Cut({5, -4, 1, 0}, 1e9, 4), {0, 0, 0, 0}));
}

TEST(LargestProxTest, NothingIsCutForNothing) {
  EXPECT_TRUE(Same(Cut({5, -4, 1, 0}, 0, 4), {5, -4, 1, 0}));
}

TEST(LargestProxTest, EachGroupIsCutByItselfAndSoIsAShortOne) {
  EXPECT_TRUE(Same(Cut({5, 1, -2, 2, 3}, 1, 2), {4, 1, -1.5f, 1.5f, 2}));
}

TEST(LargestProxTest, EqualEntriesShareTheCut) {
  const at::Tensor rows = at::full({3, 100}, -2.0f);
  CutLargest(50, 100, rows);
  EXPECT_TRUE(rows.eq(-1.5).all().item<bool>());
}

}  // namespace
}  // namespace quantd::numerics
