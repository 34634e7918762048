// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "tests/support/test_data.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/methods/method.h"

namespace quantd::methods {
namespace {

v1::Value Text(const std::string& text) {
  v1::Value value;
  value.set_string_value(text);
  return value;
}

v1::Value Whole(int64_t number) {
  v1::Value value;
  value.set_int_value(number);
  return value;
}

absl::StatusOr<formats::QuantizedLinear> Quantize(
    const at::Tensor& weight, const formats::WeightSpec& spec,
    const std::map<std::string, v1::Value>& params) {
  v1::Component component;
  component.set_id("hqq");
  component.mutable_params()->insert(params.begin(), params.end());
  const auto method = MakeMethod(component);
  if (!method.ok()) return method.status();
  base::CancelToken cancel;
  const LinearProblem problem{.weight = weight, .spec = spec};
  auto solution = (*method)->QuantizeLinear(problem, cancel);
  if (!solution.ok()) return solution.status();
  return std::move(solution->linear);
}

at::Tensor HeavyTailed(int64_t rows, int64_t columns, uint32_t seed) {
  std::mt19937 bits(seed);
  std::student_t_distribution<float> draw(4.0f);
  at::Tensor weight = at::zeros({rows, columns});
  float* data = weight.data_ptr<float>();
  for (int64_t i = 0; i < weight.numel(); ++i) data[i] = 0.02f * draw(bits);
  return weight;
}

// Per row and group of `size` columns.
at::Tensor GroupErrors(const at::Tensor& weight,
                       const formats::QuantizedLinear& linear, int64_t size) {
  return formats::Dequantize(linear)
      .sub(weight)
      .abs()
      .view({weight.size(0), -1, size})
      .sum(2);
}

// Layers packed by hqq 0.2.8, whose widths of 1, 2, 3, 4 and 8 bits it was run
// for.
TEST(HqqTest, ReferenceSolverGivesThePublishedLayersBitForBit) {
  SKIP_WITHOUT_TEST_DATA();
  const std::string root = support::TestData("fixtures/hqq");
  const auto tensors =
      checkpoints::ReadSafetensors(absl::StrCat(root, "/layers.safetensors"));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  const auto text = base::ReadFile(absl::StrCat(root, "/layers.json"));
  ASSERT_TRUE(text.ok());
  int compared = 0;
  const nlohmann::json cases = nlohmann::json::parse(*text)["cases"];
  for (const auto& [name, about] : cases.items()) {
    const std::string bits = about["nbits"];
    const bool optimize = about["optimize"] == "True";
    const auto linear = Quantize(
        tensors->at("W").contiguous(),
        {absl::StrCat("int", bits),
         std::stoll(about["group_size"].get<std::string>()), false, "float32"},
        {{"solver", Text("reference")},
         {"iterations", Whole(optimize ? 20 : 0)},
         {"axis", Whole(std::stoll(about["axis"].get<std::string>()))}});
    ASSERT_TRUE(linear.ok()) << name << ": " << linear.status();
    const auto golden = [&](const char* part) {
      return tensors->at(absl::StrCat(name, ".", part)).to(at::kFloat);
    };
    EXPECT_TRUE(at::equal(linear->scales.flatten(), golden("scale").flatten()))
        << name;
    EXPECT_TRUE(at::equal(linear->zeros.flatten(), golden("zero").flatten()))
        << name;
    EXPECT_TRUE(at::equal(formats::Dequantize(*linear), golden("dequant")))
        << name;
    ++compared;
  }
  EXPECT_EQ(compared, 16);
}

class HqqWidthTest : public testing::TestWithParam<std::string> {};

TEST_P(HqqWidthTest, NoGroupIsWorseThanItsMinMaxGrid) {
  const at::Tensor weight = HeavyTailed(32, 128, 7);
  const formats::WeightSpec spec{GetParam(), 32, false, "float32"};
  const auto best = Quantize(weight, spec, {{"round_zero", Text("no")}});
  const auto start = Quantize(
      weight, spec, {{"round_zero", Text("no")}, {"iterations", Whole(0)}});
  ASSERT_TRUE(best.ok() && start.ok());
  const at::Tensor gain =
      GroupErrors(weight, *start, 32).sub(GroupErrors(weight, *best, 32));
  EXPECT_GE(gain.min().item<float>(), -1e-6f);
  EXPECT_GT(gain.sum().item<float>(), 0);
}

TEST_P(HqqWidthTest, AxisZeroIsAxisOneOfTheTransposedWeight) {
  const at::Tensor weight = HeavyTailed(64, 48, 9);
  const formats::WeightSpec spec{GetParam(), -1, false, "float32"};
  const auto down = Quantize(weight, spec, {{"axis", Whole(0)}});
  const auto along = Quantize(weight.t().contiguous(), spec, {});
  ASSERT_TRUE(down.ok() && along.ok());
  // Sums of a column and of a row go in another order, so that a mean may
  // differ in its last bits and a weight beside a tie go the other way.
  const int64_t different =
      down->codes.ne(along->codes.t()).sum().item<int64_t>();
  EXPECT_LE(different, weight.numel() / 500);
}

INSTANTIATE_TEST_SUITE_P(Widths, HqqWidthTest,
                         testing::Values("int1", "int2", "int3", "int4",
                                         "int8"));

TEST(HqqTest, ShortLastGroupHasAGridOfItsOwn) {
  const at::Tensor weight = HeavyTailed(5, 40, 3);
  const auto linear = Quantize(weight, {"int4", 32, false, "float16"}, {});
  ASSERT_TRUE(linear.ok()) << linear.status();
  EXPECT_EQ(linear->num_groups(), 2);
  EXPECT_LT(formats::Dequantize(*linear).sub(weight).abs().max().item<float>(),
            0.1f);
}

TEST(HqqTest, WeightsThatGroupsDoNotDivideAreRefusedOnAxisZero) {
  const auto linear =
      Quantize(HeavyTailed(5, 7, 1), {"int4", 4, false, "float16"},
               {{"axis", Whole(0)}});
  EXPECT_THAT(linear.status().ToString(), testing::HasSubstr("axis=1"));
}

TEST(HqqTest, ConstantGroupsComeBackExactly) {
  const at::Tensor weight = at::zeros({2, 64});
  weight.select(0, 1).fill_(0.25);
  const auto linear = Quantize(weight, {"int4", 64, false, "float32"},
                               {{"round_zero", Text("no")}});
  ASSERT_TRUE(linear.ok());
  EXPECT_LE(formats::Dequantize(*linear).sub(weight).abs().max().item<float>(),
            1e-6f);
}

}  // namespace
}  // namespace quantd::methods
