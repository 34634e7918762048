// SPDX-License-Identifier: Apache-2.0
#include "worker/numerics/side_by_side.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

#include "absl/strings/str_cat.h"

namespace quantd::numerics {
namespace {

class SideBySideTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { at::set_num_threads(GetParam()); }
  void TearDown() override { at::set_num_threads(threads_); }

 private:
  const int threads_ = at::get_num_threads();
};

TEST_P(SideBySideTest, EveryPieceRunsOnce) {
  for (const int64_t count : {0, 1, 2, 3, 17}) {
    std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
    const absl::Status status = SideBySide(count, [&](int64_t i) {
      ++runs[static_cast<size_t>(i)];
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
    for (const auto& run : runs) EXPECT_EQ(run, 1);
  }
}

TEST_P(SideBySideTest, APieceHasItsThreadToItself) {
  for (const int64_t count : {1, 5}) {
    std::atomic<int> shared = 0;
    const absl::Status status = SideBySide(count, [&](int64_t) {
      std::atomic<int> parts = 0;
      at::parallel_for(0, 100, 1, [&](int64_t, int64_t) { ++parts; });
      if (parts > 1) ++shared;
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(shared, 0);
  }
}

// MKL sums a product in another order on several threads, where it likes to.
TEST_P(SideBySideTest, ProductsAreThoseOfOneThread) {
  const at::Tensor left = at::randn({3, 50'000});
  const at::Tensor right = at::randn({50'000, 5});
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor alone = at::mm(left, right);
  at::set_num_threads(threads);
  std::vector<at::Tensor> products(7);
  const absl::Status status = SideBySide(7, [&](int64_t i) {
    products[static_cast<size_t>(i)] = at::mm(left, right);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  for (const at::Tensor& product : products) {
    EXPECT_TRUE(at::equal(product, alone));
  }
}

TEST_P(SideBySideTest, TheFirstErrorInOrderIsReturned) {
  std::vector<std::atomic<int>> runs(40);
  const absl::Status status = SideBySide(40, [&](int64_t i) -> absl::Status {
    ++runs[static_cast<size_t>(i)];
    if (i >= 7) return absl::InternalError(absl::StrCat(i));
    return absl::OkStatus();
  });
  EXPECT_EQ(status, absl::InternalError("7"));
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(runs[i], 1) << i;
  int begun = 0;
  for (const auto& run : runs) begun += run;
  EXPECT_LT(begun, 40);
}

TEST_P(SideBySideTest, WhatAPieceThrowsIsThrown) {
  std::atomic<int> begun = 0;
  const auto work = [&](int64_t) -> absl::Status {
    ++begun;
    throw std::runtime_error("a piece");
  };
  EXPECT_THROW(SideBySide(40, work).IgnoreError(), std::runtime_error);
  EXPECT_LT(begun, 40);
}

INSTANTIATE_TEST_SUITE_P(Threads, SideBySideTest, testing::Values(1, 2, 3));

}  // namespace
}  // namespace quantd::numerics
