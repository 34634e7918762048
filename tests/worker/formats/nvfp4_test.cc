// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "absl/strings/match.h"
#include "tests/worker/formats/peer_tensors.h"
#include "worker/formats/tensor_scale.h"

namespace quantd::formats {
namespace {

constexpr int64_t kBlock = 16;

WeightSpec Spec() { return SpecOf("nvfp4", kBlock); }

QuantizedLinear Round(const at::Tensor& weight, const WeightSpec& spec) {
  const auto linear = RoundToNearest(weight, spec);
  EXPECT_TRUE(linear.ok()) << linear.status();
  return *linear;
}

// The block scales, as E4M3 numbers.
at::Tensor BlockScales(const QuantizedLinear& linear) {
  return linear.parts.at("block_scales")
      .view(at::kFloat8_e4m3fn)
      .to(at::kFloat);
}

TEST(Nvfp4Test, TheLargestBlockHasTheLargestScale) {
  at::Tensor weight = Normal(8, 64, 1);
  weight[5][37] = -1.7f;
  const QuantizedLinear linear = Round(weight, Spec());
  EXPECT_EQ(BlockScales(linear)[5][2].item<float>(), 448);
  EXPECT_FLOAT_EQ(Dequantize(linear)[5][37].item<float>(), -1.7f);
  const float tensor = linear.parts.at("tensor_scale").item<float>();
  EXPECT_EQ(tensor, 2688.0f / 1.7f);
  EXPECT_TRUE(linear.scales.equal(BlockScales(linear).div(tensor)));
  EXPECT_TRUE(BlockScales(linear).ge(0).all().item<bool>());
}

TEST(Nvfp4Test, HandComputedBlock) {
  // amax 6 * 448 makes the tensor's scale 1.
  at::Tensor weight = at::zeros({1, 2 * kBlock});
  weight[0][0] = 2688;
  // amax / 6 = 20 is an E4M3 number; the rest in units of 20.
  const float units[] = {6,    0.25f, 0.75f, 1.25f,  1.75f, 2.5f,
                         3.5f, 5,     -5,    -0.25f, -6,    0.3f};
  const int codes[] = {7, 0, 2, 2, 4, 4, 6, 6, 14, 8, 15, 1};
  for (int i = 0; i < 12; ++i) weight[0][kBlock + i] = 20 * units[i];
  const QuantizedLinear linear = Round(weight, Spec());
  EXPECT_EQ(BlockScales(linear)[0][1].item<float>(), 20);
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(linear.codes[0][kBlock + i].item<int>(), codes[i]) << units[i];
  }
}

TEST(Nvfp4Test, ABlockScaleThatRoundsToZeroIsAnEighth) {
  at::Tensor weight = at::zeros({1, 3 * kBlock});
  weight[0][0] = 2688;
  weight[0][kBlock] = 1e-5f;  // amax / 6 is far below 2^-10.
  const QuantizedLinear linear = Round(weight, Spec());
  EXPECT_EQ(BlockScales(linear)[0][1].item<float>(), 0.125f);
  EXPECT_EQ(BlockScales(linear)[0][2].item<float>(), 0.125f);
  const at::Tensor rest = Dequantize(linear).narrow(1, kBlock, 2 * kBlock);
  EXPECT_TRUE(rest.eq(0).all().item<bool>());
}

TEST(Nvfp4Test, AllZerosAndTinyTensorsAreFinite) {
  for (const float value : {0.0f, 1e-45f, 1e-38f, 3e38f}) {
    at::Tensor weight = at::zeros({2, kBlock});
    weight[1][3] = value;
    const QuantizedLinear linear = Round(weight, Spec());
    EXPECT_TRUE(at::isfinite(linear.scales).all().item<bool>()) << value;
    EXPECT_TRUE(at::isfinite(Dequantize(linear)).all().item<bool>()) << value;
    EXPECT_TRUE(Dequantize(linear)[0].eq(0).all().item<bool>()) << value;
  }
}

TEST(Nvfp4Test, PowersOfTwoPassThrough) {
  const at::Tensor weight = Normal(8, 64, 2);
  const at::Tensor value = Dequantize(Round(weight, Spec()));
  EXPECT_TRUE(Dequantize(Round(weight.mul(256), Spec())).equal(value.mul(256)));
}

TEST(Nvfp4Test, FourOrSixIsTheBetterOfTheTwo) {
  const at::Tensor weight = Normal(64, 256, 3);
  const WeightSpec spec = With(Spec(), "four_or_six");
  const QuantizedLinear linear = Round(weight, spec);
  const float tensor = linear.parts.at("tensor_scale").item<float>();
  EXPECT_EQ(tensor, 6 * 256 / weight.abs().max().item<float>());
  const at::Tensor blocks = weight.view({-1, kBlock});
  const at::Tensor amax = blocks.abs().amax(1);
  const auto error = [&](float level) {
    const at::Tensor scale = amax.div(level)
                                 .mul(tensor)
                                 .to(at::kFloat8_e4m3fn)
                                 .to(at::kFloat)
                                 .div(tensor);
    const Grid grid{scale, at::Tensor()};
    return FormatOf("nvfp4")
        .Values(FormatOf("nvfp4").Nearest(blocks, grid))
        .mul(scale.unsqueeze(1))
        .sub(blocks)
        .square()
        .sum(1);
  };
  const at::Tensor four = error(4);
  const at::Tensor six = error(6);
  const at::Tensor chosen =
      Dequantize(linear).sub(weight).view({-1, kBlock}).square().sum(1);
  EXPECT_TRUE(chosen.le(at::minimum(four, six).mul(1 + 1e-5).add(1e-12))
                  .all()
                  .item<bool>());
  // Both happen on normal weights.
  EXPECT_GT(four.lt(six).sum().item<int64_t>(), 100);
  EXPECT_GT(six.lt(four).sum().item<int64_t>(), 100);
  const double plain = Dequantize(Round(weight, Spec()))
                           .sub(weight)
                           .square()
                           .sum()
                           .item<double>();
  EXPECT_LT(chosen.sum().item<double>(), plain);
}

TEST(Nvfp4Test, ABlockOfSixteenTakesAByteOfScale) {
  EXPECT_EQ(FormatOf("nvfp4").BitsPerWeight(Spec(), 4096), 4.5);
  EXPECT_EQ(FormatOf("nvfp4").fixed_group_size(), kBlock);
}

// Joined in that order.
std::vector<WeightSpec> Join(const std::vector<at::Tensor>& weights,
                             std::vector<WeightSpec> specs) {
  std::vector<JoinedWeight> joined;
  for (size_t i = 0; i < weights.size(); ++i) {
    joined.push_back({weights[i], &specs[i]});
  }
  ShareTensorScales(joined);
  return specs;
}

float TensorScaleOf(const QuantizedLinear& linear) {
  return linear.parts.at("tensor_scale").item<float>();
}

TEST(Nvfp4JoinedTest, WeightsHaveTheScaleOfTheLargestAmongThem) {
  const std::vector<at::Tensor> weights = {
      Normal(8, 64, 1), Normal(4, 64, 2).mul(3), at::zeros({2, 64})};
  const float largest = weights[1].abs().max().item<float>();
  const auto specs = Join(weights, {Spec(), Spec(), Spec()});
  for (size_t i = 0; i < weights.size(); ++i) {
    const QuantizedLinear linear = Round(weights[i], specs[i]);
    EXPECT_EQ(TensorScaleOf(linear), 2688 / largest);
    EXPECT_TRUE(linear.scales.equal(BlockScales(linear).div(2688 / largest)));
  }
  // The largest is rounded as by itself; what is a matrix of rows may be one.
  EXPECT_TRUE(
      Round(weights[1], specs[1]).codes.equal(Round(weights[1], Spec()).codes));
  const QuantizedLinear stacked = Round(at::cat(weights, 0), Spec());
  const QuantizedLinear first = Round(weights[0], specs[0]);
  EXPECT_TRUE(stacked.codes.narrow(0, 0, 8).equal(first.codes));
  EXPECT_TRUE(stacked.parts.at("block_scales")
                  .narrow(0, 0, 8)
                  .equal(first.parts.at("block_scales")));
}

TEST(Nvfp4JoinedTest, TheOrderDoesNotMatter) {
  const at::Tensor a = Normal(8, 64, 1);
  const at::Tensor b = Normal(8, 64, 2);
  EXPECT_EQ(Join({a, b}, {Spec(), Spec()})[0].shared_range,
            Join({b, a}, {Spec(), Spec()})[0].shared_range);
}

TEST(Nvfp4JoinedTest, OtherFormatsHaveNoPartInIt) {
  const at::Tensor a = Normal(8, 64, 1);
  const auto specs =
      Join({a, a.mul(9), a.mul(2)},
           {Spec(), SpecOf("mxfp4", 32), With(Spec(), "four_or_six")});
  EXPECT_EQ(specs[0].shared_range, a.mul(2).abs().max().item<float>());
  EXPECT_EQ(specs[1].shared_range, 0);
  EXPECT_EQ(specs[2].shared_range, specs[0].shared_range);
}

TEST(Nvfp4JoinedTest, ADamagedNeighbourChangesNothing) {
  const at::Tensor a = Normal(8, 64, 1);
  at::Tensor damaged = a.mul(2);
  damaged[3][3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(Join({a, damaged}, {Spec(), Spec()})[0].shared_range,
            a.abs().max().item<float>());
}

// "…self_attn" of queries, keys and values, "…mlp" of gate and up; else the
// module itself.
std::string JoinedName(const std::string& module) {
  for (const char* part :
       {".q_proj", ".k_proj", ".v_proj", ".gate_proj", ".up_proj"}) {
    if (absl::EndsWith(module, part)) {
      return module.substr(0, module.rfind('.'));
    }
  }
  return module;
}

// The peer multiplies the reciprocal of the largest magnitude by 2688, both in
// bfloat16.
TEST(Nvfp4PeerTest, TensorScalesAreThoseOfThePeerInItsArithmetic) {
  SKIP_WITHOUT_TEST_DATA();
  const auto source = ReadFixture("quantized/source_fp32/model.safetensors");
  for (const char* folder : {"llmc_nvfp4", "llmc_nvfp4a16"}) {
    const auto peer =
        ReadFixture(std::string("quantized/") + folder + "/model.safetensors");
    std::map<std::string, WeightSpec> specs;
    std::map<std::string, std::vector<JoinedWeight>> joined;
    for (const auto& [name, packed] : peer) {
      if (!absl::EndsWith(name, ".weight_packed")) continue;
      const std::string module = name.substr(0, name.size() - 14);
      specs[module] = Spec();
      joined[JoinedName(module)].push_back(
          {source.at(module + ".weight"), &specs[module]});
    }
    // Two layers of attention, its output, gate with up, and down.
    EXPECT_EQ(joined.size(), 8u);
    for (const auto& [name, weights] : joined) ShareTensorScales(weights);
    EXPECT_EQ(specs.size(), 14u);
    for (const auto& [module, spec] : specs) {
      const float stored =
          peer.at(module + ".weight_global_scale").item<float>();
      const at::Tensor reciprocal =
          at::tensor(1 / spec.shared_range).to(at::kBFloat16);
      EXPECT_EQ(reciprocal.mul(2688).item<float>(), stored) << module;
      const float ours =
          FormatOf("nvfp4").TensorScale(source.at(module + ".weight"), spec);
      EXPECT_EQ(ours, 2688 / spec.shared_range);
      // Two roundings to 8 bits of significand.
      EXPECT_NEAR(ours / stored, 1, 0x1p-7) << module;
    }
  }
}

// The peer computes in bfloat16: the tensor's scale and the sixths of the
// largest magnitudes are rounded to it. Elements are divided in float32.
TEST(Nvfp4PeerTest, BytesAreThoseOfThePeerOnItsOwnRoundedInputs) {
  SKIP_WITHOUT_TEST_DATA();
  const auto source = ReadFixture("quantized/source_fp32/model.safetensors");
  const Format& format = FormatOf("nvfp4");
  int modules = 0;
  for (const char* folder : {"llmc_nvfp4", "llmc_nvfp4a16"}) {
    const auto peer =
        ReadFixture(std::string("quantized/") + folder + "/model.safetensors");
    for (const auto& [name, packed] : peer) {
      if (!absl::EndsWith(name, ".weight_packed")) continue;
      const std::string module = name.substr(0, name.size() - 14);
      const at::Tensor weight = source.at(module + ".weight");
      const float tensor =
          peer.at(module + ".weight_global_scale").item<float>();
      // A largest magnitude whose float32 sixth is that sixth in bfloat16.
      const at::Tensor blocks = weight.view({-1, kBlock});
      const at::Tensor amax = blocks.abs().amax(1, true);
      const at::Tensor sixth =
          amax.div(6).to(at::kBFloat16).to(at::kFloat).mul(6);
      const at::Tensor moved =
          at::where(blocks.abs().eq(amax), sixth.copysign(blocks), blocks);
      const auto grid = format.ChooseGrid(moved, Spec(), tensor);
      ASSERT_TRUE(grid.ok()) << grid.status();
      const at::Tensor stored = peer.at(module + ".weight_scale");
      EXPECT_TRUE(grid->scale.view(stored.sizes())
                      .equal(stored.to(at::kFloat).div(tensor)))
          << module;
      EXPECT_TRUE(format.Nearest(blocks, *grid)
                      .view(weight.sizes())
                      .equal(Nibbles(packed, true, weight.sizes())))
          << module;
      ++modules;
    }
  }
  EXPECT_EQ(modules, 28);
}

}  // namespace
}  // namespace quantd::formats
