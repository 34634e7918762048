// SPDX-License-Identifier: Apache-2.0
#include "worker/kernels/operators.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "worker/kernels/column_blocks.h"

namespace quantd::kernels {
namespace {

// A loop over `weight` and a random feedback matrix.
ColumnLoop RandomLoop(const at::Tensor& weight, int64_t group_size) {
  const int64_t out = weight.size(0);
  const int64_t in = weight.size(1);
  ColumnLoop loop;
  loop.corrected = weight.clone();
  loop.feedback = at::randn({in, in}).mul_(0.05).triu(1);
  loop.pivots = at::randn({in}).abs_().add_(0.1);
  const int64_t groups = (in + group_size - 1) / group_size;
  loop.codes = at::empty({out, in}, at::kByte);
  loop.scales = at::empty({out, groups});
  loop.zeros = at::empty({out, groups}, at::kByte);
  loop.loss = at::zeros({out});
  loop.rule = {15, false, ScaleType::kFloat16};
  loop.group_size = group_size;
  return loop;
}

void RunAll(const ColumnLoop& loop, int64_t width) {
  const int64_t in = loop.corrected.size(1);
  for (int64_t begin = 0; begin < in;) {
    const int64_t end = BlockEnd(begin, in, width, loop.group_size);
    GptqColumns(loop, begin, end);
    begin = end;
  }
}

at::Tensor Value(const ColumnLoop& loop) {
  const int64_t in = loop.corrected.size(1);
  at::Tensor value = at::empty({loop.corrected.size(0), in}, at::kDouble);
  for (int64_t c = 0; c < in; ++c) {
    const int64_t g = c / loop.group_size;
    value.select(1, c).copy_(loop.codes.select(1, c)
                                 .to(at::kDouble)
                                 .sub(loop.zeros.select(1, g))
                                 .mul(loop.scales.select(1, g)));
  }
  return value;
}

TEST(GptqColumnsTest, LossIsTheDistanceInTheNormOfTheHessian) {
  for (const int64_t width : {8, 100, 512}) {
    const at::Tensor weight = at::randn({37, 150});
    const ColumnLoop loop = RandomLoop(weight, 16);
    RunAll(loop, width);
    const at::Tensor m = at::linalg_inv(
        at::eye(150, at::kDouble).sub(loop.feedback.to(at::kDouble)));
    const at::Tensor hessian =
        at::mm(m.mul(loop.pivots.to(at::kDouble)), m.t());
    const at::Tensor miss = weight.to(at::kDouble).sub(Value(loop));
    const at::Tensor truth = at::mm(miss, hessian).mul(miss).sum(1).mul(0.5);
    const at::Tensor relative =
        loop.loss.to(at::kDouble).sub(truth).abs().div(truth);
    EXPECT_LT(relative.max().item<double>(), 1e-3);
  }
}

TEST(GptqColumnsTest, RowsDoNotHearOfEachOther) {
  const at::Tensor weight = at::randn({70, 96});
  const ColumnLoop loop = RandomLoop(weight, 32);
  RunAll(loop, 512);
  ColumnLoop reversed = loop;
  reversed.corrected = weight.flip({0});
  reversed.codes = at::empty_like(loop.codes);
  reversed.scales = at::empty_like(loop.scales);
  reversed.zeros = at::empty_like(loop.zeros);
  reversed.loss = at::zeros({70});
  RunAll(reversed, 512);
  EXPECT_TRUE(at::equal(reversed.codes.flip({0}), loop.codes));
  EXPECT_TRUE(at::equal(reversed.scales.flip({0}), loop.scales));
  EXPECT_TRUE(at::equal(reversed.loss.flip({0}), loop.loss));
}

TEST(GptqColumnsTest, ThreadsDoNotChangeThePanel) {
  const int threads = at::get_num_threads();
  const at::Tensor weight = at::randn({130, 200});
  ColumnLoop loop = RandomLoop(weight, 32);
  at::set_num_threads(1);
  RunAll(loop, 512);
  const at::Tensor codes = loop.codes.clone();
  loop.corrected = weight.clone();
  at::set_num_threads(2);
  RunAll(loop, 512);
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(codes, loop.codes));
}

TEST(BlockEndTest, GroupsThatStartInABlockEndInIt) {
  for (int64_t in = 1; in < 90; in += 4) {
    for (int64_t group = 1; group <= in; ++group) {
      for (const int64_t width : {1, 8, 31, 64}) {
        for (int64_t begin = 0; begin < in;) {
          const int64_t end = BlockEnd(begin, in, width, group);
          ASSERT_GT(end, begin);
          ASSERT_LE(end, std::min(in, begin + width));
          const int64_t start = (end - 1) / group * group;
          const bool ends = start + group <= end || end == in;
          ASSERT_TRUE(start <= begin || ends)
              << in << " " << group << " " << width << " " << begin;
          begin = end;
        }
      }
    }
  }
}

TEST(BlockEndTest, GivenGridsNeedNoCuts) {
  EXPECT_EQ(BlockEnd(0, 1000, 128, 0), 128);
  EXPECT_EQ(BlockEnd(0, 1000, 128, 100), 100);
  EXPECT_EQ(BlockEnd(0, 1000, 128, 600), 128);
  EXPECT_EQ(BlockEnd(500, 1000, 128, 600), 600);
  EXPECT_EQ(BlockEnd(900, 1000, 128, 600), 1000);
}

}  // namespace
}  // namespace quantd::kernels
