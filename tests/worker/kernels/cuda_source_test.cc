// SPDX-License-Identifier: Apache-2.0
// The source of the CUDA kernels, compiled by this compiler and run on fibers,
// against the CPU loops.
#include "tests/worker/kernels/cuda_fibers.h"
//
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <random>

#include "worker/kernels/column_blocks.h"
#include "worker/kernels/cuda/columns.cuh"
#include "worker/kernels/cuda/gram.cuh"
#include "worker/kernels/cuda/rounding.cuh"
#include "worker/kernels/operators.h"

namespace quantd::kernels {
namespace {

at::Tensor Random(at::IntArrayRef shape, uint32_t seed) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  float* values = tensor.data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) values[i] = normal(random);
  return tensor;
}

struct Layer {
  int64_t rows;
  int64_t in_features;
  int64_t group_size;
  bool symmetric;
  int bits;
  bool static_groups = false;
};

ColumnLoop MakeLoop(const Layer& layer) {
  ColumnLoop loop;
  const int64_t groups =
      (layer.in_features + layer.group_size - 1) / layer.group_size;
  loop.corrected = Random({layer.rows, layer.in_features}, 1);
  loop.feedback = Random({layer.in_features, layer.in_features}, 2).mul(0.1);
  loop.pivots = at::full({layer.in_features}, 0.7, at::kFloat);
  loop.codes = at::zeros({layer.rows, layer.in_features}, at::kByte);
  loop.scales = at::full({layer.rows, groups}, 0.25, at::kFloat);
  loop.zeros = at::full({layer.rows, groups}, 3, at::kByte);
  loop.loss = at::zeros({layer.rows}, at::kFloat);
  loop.rule.max_code = (1 << layer.bits) - 1;
  loop.rule.symmetric = layer.symmetric;
  loop.group_size = layer.group_size;
  if (layer.static_groups) {
    // Columns in an order of their own, as act order has them.
    loop.column_group = at::empty({layer.in_features}, at::kInt);
    for (int64_t j = 0; j < layer.in_features; ++j) {
      loop.column_group.data_ptr<int32_t>()[j] =
          static_cast<int32_t>((j * 7 % layer.in_features) / layer.group_size);
    }
  }
  return loop;
}

// What operators.cc of the plugin does for one block, on fibers.
at::Tensor RunBlockOnFibers(const ColumnLoop& loop, int64_t begin,
                            int64_t end) {
  const at::Tensor error =
      at::zeros({loop.corrected.size(0), end - begin}, at::kFloat);
  ColumnsArguments a;
  a.rows = loop.corrected.size(0);
  a.in_features = loop.corrected.size(1);
  a.groups = loop.scales.size(1);
  a.begin = begin;
  a.end = end;
  a.corrected = loop.corrected.const_data_ptr<float>();
  a.feedback = loop.feedback.const_data_ptr<float>();
  a.pivots = loop.pivots.const_data_ptr<float>();
  a.codes = loop.codes.data_ptr<uint8_t>();
  a.scales = loop.scales.data_ptr<float>();
  a.zeros = loop.zeros.data_ptr<uint8_t>();
  if (loop.column_group.defined()) {
    a.column_group = loop.column_group.const_data_ptr<int32_t>();
  }
  a.loss = loop.loss.data_ptr<float>();
  a.error = error.data_ptr<float>();
  a.rule = loop.rule;
  a.group_size = loop.group_size;
  const int64_t rows_per_block = kColumnsThreads / kWarp;
  const auto blocks =
      static_cast<unsigned>((a.rows + rows_per_block - 1) / rows_per_block);
  RunKernel(dim3(blocks), dim3(kColumnsThreads), [&] { GptqColumnsKernel(a); });
  return error;
}

class ColumnsSourceTest : public testing::TestWithParam<Layer> {};

TEST_P(ColumnsSourceTest, ABlockEqualsTheCpuLoopToTheBit) {
  const ColumnLoop cpu = MakeLoop(GetParam());
  const ColumnLoop gpu = MakeLoop(GetParam());
  const int64_t in = GetParam().in_features;
  const int64_t group = cpu.column_group.defined() ? 0 : GetParam().group_size;
  const int64_t end = BlockEnd(0, in, kBlockColumns, group);
  GptqColumns(cpu, 0, end);
  RunBlockOnFibers(gpu, 0, end);
  EXPECT_TRUE(gpu.codes.equal(cpu.codes));
  EXPECT_TRUE(gpu.scales.equal(cpu.scales));
  EXPECT_TRUE(gpu.zeros.equal(cpu.zeros));
  EXPECT_TRUE(gpu.loss.equal(cpu.loss));
  EXPECT_GT(cpu.codes.count_nonzero().item<int64_t>(), 0);
}

INSTANTIATE_TEST_SUITE_P(Layers, ColumnsSourceTest,
                         testing::Values(Layer{5, 96, 32, true, 4},
                                         Layer{33, 128, 64, false, 3},
                                         Layer{7, 128, 128, true, 2},
                                         Layer{3, 200, 200, false, 8},
                                         Layer{9, 100, 40, true, 5},
                                         Layer{6, 120, 24, false, 4, true}));

TEST(RoundingSourceTest, EqualsTheCpuToTheBit) {
  const at::Tensor weight = Random({11, 90}, 5);
  for (const bool symmetric : {true, false}) {
    const IntegerGridRule rule{15, symmetric, ScaleType::kFloat16};
    const RoundingOutput cpu = RoundToNearest(weight, 32, rule);
    RoundingArguments a;
    a.rows = 11;
    a.in_features = 90;
    a.groups = 3;
    a.group_size = 32;
    a.rule = rule;
    at::Tensor codes = at::zeros({11, 90}, at::kByte);
    at::Tensor scales = at::zeros({11, 3}, at::kFloat);
    at::Tensor zeros = at::zeros({11, 3}, at::kByte);
    a.weight = weight.const_data_ptr<float>();
    a.codes = codes.data_ptr<uint8_t>();
    a.scales = scales.data_ptr<float>();
    a.zeros = zeros.data_ptr<uint8_t>();
    RunKernel(dim3(3, 3), dim3(kColumnsThreads),
              [&] { RoundToNearestKernel(a); });
    EXPECT_TRUE(codes.equal(cpu.codes));
    EXPECT_TRUE(scales.equal(cpu.scales));
    EXPECT_TRUE(zeros.equal(cpu.zeros));
  }
}

TEST(GramSourceTest, UpperTrianglesAgreeWithFloat64) {
  const int64_t tokens = 45;
  const int64_t in = 100;
  const at::Tensor input = Random({tokens, in}, 7);
  const at::Tensor wanted =
      input.to(at::kDouble).t().mm(input.to(at::kDouble)).add(2.0);
  at::Tensor gram = at::full({in, in}, 2.0, at::kFloat);
  GramArguments a;
  a.tokens = tokens;
  a.in_features = in;
  a.input = input.const_data_ptr<float>();
  a.gram = gram.data_ptr<float>();
  RunKernel(dim3(2, 2), dim3(kGramThreads), [&] { GramKernel(a); });
  const at::Tensor miss = gram.to(at::kDouble).sub(wanted).abs().triu();
  // Three bfloat16 products keep 2^-16 of each |x y|.
  const double bound = tokens * 16.0 / 65536;
  EXPECT_LT(miss.max().item<double>(), bound);
  EXPECT_GT(wanted.abs().max().item<double>(), 20 * bound);
}

TEST(FibersDeathTest, ADivergentBarrierIsFound) {
  EXPECT_DEATH(RunKernel(dim3(1), dim3(64),
                         [] {
                           if (threadIdx.x == 3) WarpExchange(0, 0);
                           __syncthreads();
                         }),
               "divergent barrier");
}

}  // namespace
}  // namespace quantd::kernels
