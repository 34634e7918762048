// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels on a real GPU against the CPU.
#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "worker/kernels/cuda_plugin.h"
#include "worker/kernels/operators.h"

namespace quantd::kernels {
namespace {

class CudaTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto device = OpenDevice("cuda:0");
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *device;
  }

  c10::Device device_ = c10::kCPU;
};

ColumnLoop MakeLoop(int64_t rows, int64_t in, int64_t group_size) {
  ColumnLoop loop;
  loop.corrected = at::randn({rows, in});
  loop.feedback = at::randn({in, in}).mul(0.02);
  loop.pivots = at::full({in}, 0.7);
  loop.codes = at::zeros({rows, in}, at::kByte);
  loop.scales = at::zeros({rows, in / group_size});
  loop.zeros = at::zeros({rows, in / group_size}, at::kByte);
  loop.loss = at::zeros({rows});
  loop.group_size = group_size;
  return loop;
}

ColumnLoop CopyTo(const ColumnLoop& loop, c10::Device device) {
  ColumnLoop copy = loop;
  for (at::Tensor ColumnLoop::*field :
       {&ColumnLoop::corrected, &ColumnLoop::feedback, &ColumnLoop::pivots,
        &ColumnLoop::codes, &ColumnLoop::scales, &ColumnLoop::zeros,
        &ColumnLoop::loss}) {
    copy.*field = (loop.*field)
                      .to(device, /*non_blocking=*/false,
                          /*copy=*/true);
  }
  return copy;
}

TEST_F(CudaTest, TheFirstBlockEqualsTheCpuToTheBit) {
  const ColumnLoop cpu = MakeLoop(257, 128, 64);
  const ColumnLoop gpu = CopyTo(cpu, device_);
  GptqColumns(cpu, 0, 128);
  GptqColumns(gpu, 0, 128);
  EXPECT_TRUE(gpu.codes.cpu().equal(cpu.codes));
  EXPECT_TRUE(gpu.scales.cpu().equal(cpu.scales));
  EXPECT_TRUE(gpu.loss.cpu().equal(cpu.loss));
}

TEST_F(CudaTest, AWholeLayerLosesNoMoreThanOnTheCpu) {
  const ColumnLoop cpu = MakeLoop(1024, 1024, 128);
  const ColumnLoop gpu = CopyTo(cpu, device_);
  GptqColumns(cpu, 0, 1024);
  GptqColumns(gpu, 0, 1024);
  const double wanted = cpu.loss.sum().item<double>();
  EXPECT_NEAR(gpu.loss.cpu().sum().item<double>(), wanted, 1e-3 * wanted);
}

TEST_F(CudaTest, RoundingEqualsTheCpuToTheBit) {
  const at::Tensor weight = at::randn({300, 768});
  const IntegerGridRule rule;
  const RoundingOutput cpu = RoundToNearest(weight, 64, rule);
  const RoundingOutput gpu = RoundToNearest(weight.to(device_), 64, rule);
  EXPECT_TRUE(gpu.codes.cpu().equal(cpu.codes));
  EXPECT_TRUE(gpu.scales.cpu().equal(cpu.scales));
}

TEST_F(CudaTest, TheGramMatrixIsWithinTheBoundOfItsSplit) {
  const at::Tensor input = at::randn({2000, 576});
  at::Tensor gram = at::zeros({576, 576}).to(device_);
  GramAdd(gram, input.to(device_));
  const at::Tensor exact = input.to(at::kDouble).t().mm(input.to(at::kDouble));
  const at::Tensor miss = gram.cpu().to(at::kDouble).sub(exact).abs().triu();
  EXPECT_LT(miss.max().item<double>(), 1e-4 * 2000);
}

}  // namespace
}  // namespace quantd::kernels
