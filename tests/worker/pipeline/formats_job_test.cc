// SPDX-License-Identifier: Apache-2.0
// Whole jobs on a small random model in every number format.
#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "proto/base/error.h"
#include "proto/spec/catalog_rules.h"
#include "proto/spec/presets.h"
#include "tests/worker/pipeline/local_agent.h"
#include "tests/worker/pipeline/tiny_job.h"
#include "worker/checkpoints/reader.h"
#include "worker/formats/format.h"
#include "worker/pipeline/pipeline.h"
#include "worker/steps/block_file.h"

namespace quantd::pipeline {
namespace {

v1::JobSpec Job(const std::string& method, const std::string& format) {
  v1::JobSpec spec = TinyJob(method);
  v1::Recipe& recipe = RecipeOf(spec);
  recipe.mutable_weights()->set_format(format);
  // Formats with groups of their own take no notice.
  recipe.mutable_weights()->set_group_size(64);
  recipe.mutable_calibration()->set_num_samples(4);
  recipe.mutable_calibration()->set_sequence_length(32);
  recipe.mutable_exports(0)->set_id("dequantized");
  return spec;
}

std::vector<std::string> Ids() {
  std::vector<std::string> ids;
  for (const formats::FormatEntry& entry : formats::Registry()) {
    ids.push_back(entry.description.id());
  }
  return ids;
}

// With zero points where the format is nothing without; none where `method`
// does not go with it.
std::optional<v1::JobSpec> LegalJob(const std::string& method,
                                    const std::string& format) {
  for (const bool symmetric : {true, false}) {
    v1::JobSpec spec = Job(method, format);
    RecipeOf(spec).mutable_weights()->set_symmetric(symmetric);
    if (spec::CheckRecipe(RecipeOf(spec), DescribeBuild()).empty()) return spec;
  }
  return std::nullopt;
}

class FormatsJobTest : public testing::TestWithParam<std::string> {};

TEST_P(FormatsJobTest, RoundingEndsInACheckpointThatReadsBackTheSame) {
  const formats::Format& format = **formats::FindFormat(GetParam());
  std::optional<v1::JobSpec> spec = LegalJob("rtn", GetParam());
  if (!spec.has_value()) spec = LegalJob("hqq", GetParam());
  ASSERT_TRUE(spec.has_value());
  LocalAgent agent(*spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->artifacts.size(), 1);
  EXPECT_LT(result->report.verify_max_difference(), 1e-4);
  EXPECT_GT(result->report.bits_per_weight(), format.bits());
  // Blocks of 32 with a minimum have two numbers of 16 bits.
  formats::WeightSpec layout;
  layout.format = GetParam();
  const int64_t fixed = format.fixed_group_size();
  layout.group_size = fixed != 0 ? fixed : 64;
  layout.symmetric = spec->quantize().recipe().weights().symmetric();
  const auto grids = formats::RoundToNearest(at::ones({1, 256}), layout);
  ASSERT_TRUE(grids.ok()) << grids.status();
  const bool has_minimum = grids->offsets.defined();
  EXPECT_LE(result->report.bits_per_weight(),
            format.bits() + (has_minimum ? 1 : 0.5));
  ASSERT_EQ(result->report.layers_size(), 14);
  // One bit leaves less of the outputs than any bound would be worth.
  if (format.bits() == 1) return;
  for (const v1::LayerReport& layer : result->report.layers()) {
    // Two bits leave a quarter of the energy, eight a thousandth.
    EXPECT_LT(layer.relative_error(), 1.2 * std::exp2(-format.bits()))
        << layer.name();
  }
}

TEST_P(FormatsJobTest, ErrorFeedbackIsBetterThanRounding) {
  const std::optional<v1::JobSpec> spec = LegalJob("gptq", GetParam());
  if (!spec.has_value()) GTEST_SKIP() << "does not go with gptq";
  LocalAgent agent(*spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  double own = 0;
  double rounding = 0;
  for (const v1::LayerReport& layer : result->report.layers()) {
    EXPECT_EQ(layer.verdict(), v1::VERDICT_OK) << layer.reason();
    own += layer.relative_error();
    rounding += layer.rtn_relative_error();
  }
  EXPECT_LT(own, rounding);
}

INSTANTIATE_TEST_SUITE_P(Registered, FormatsJobTest, testing::ValuesIn(Ids()),
                         [](const auto& test) { return test.param; });

TEST(FormatsJobTest, GridsThatTheMethodWouldNotUseAreRefused) {
  for (const auto& [name, value] :
       std::vector<std::pair<std::string, std::string>>{
           {"clip", "mse"}, {"grid", "awq"}, {"scope", "tensor"}}) {
    v1::JobSpec spec = *LegalJob("hqq", "int4");
    (*RecipeOf(spec).mutable_weights()->mutable_params())[name]
        .set_string_value(value);
    LocalAgent agent(spec);
    const absl::Status status = agent.Run().status();
    EXPECT_EQ(base::ErrorReason(status), "RECIPE_INVALID") << name;
    EXPECT_THAT(std::string(status.message()),
                testing::HasSubstr("with hqq: it chooses ranges"));
    EXPECT_EQ(agent.steps_run_, 0);
  }
}

TEST(FormatsJobTest, ParametersOfAFormatReachTheWeights) {
  v1::JobSpec spec = Job("rtn", "nf4");
  (*spec.mutable_quantize()
        ->mutable_recipe()
        ->mutable_weights()
        ->mutable_params())["double_quant"]
      .set_bool_value(true);
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_NEAR(result->report.bits_per_weight(), 4.127, 1e-3);
}

// What the blocks of a finished job became.
std::vector<steps::QuantizedModules> BlocksOf(const LocalAgent& agent) {
  std::vector<steps::QuantizedModules> blocks;
  for (const v1::Step& step : agent.start_.committed()) {
    if (!step.blobs().contains("weights")) continue;
    const auto block = steps::ReadBlockFile(
        agent.BlobFile(static_cast<int>(step.step()), "weights"));
    EXPECT_TRUE(block.ok()) << block.status();
    blocks.push_back(*block);
  }
  return blocks;
}

// The largest magnitude that the tensor scale of each module is for.
std::map<std::string, float> TensorRanges(const LocalAgent& agent) {
  std::map<std::string, float> ranges;
  for (const steps::QuantizedModules& block : BlocksOf(agent)) {
    for (const auto& [name, linear] : block) {
      const auto scale = linear.parts.find("tensor_scale");
      if (scale == linear.parts.end()) continue;
      ranges[name] = 2688 / scale->second.item<float>();
    }
  }
  return ranges;
}

float LargestOf(const std::vector<std::string>& modules) {
  const auto reader = *checkpoints::OpenCheckpoint(TinyInputs().File("tiny"));
  float largest = 0;
  for (const std::string& module : modules) {
    const at::Tensor weight = *reader->ReadFloat(module + ".weight");
    largest = std::max(largest, weight.abs().max().item<float>());
  }
  return largest;
}

TEST(FormatsJobTest, LayersThatReadTheSameValuesHaveOneTensorScale) {
  for (const char* method : {"rtn", "gptq"}) {
    LocalAgent agent(Job(method, "nvfp4"));
    const auto result = agent.Run();
    ASSERT_TRUE(result.ok()) << result.status();
    const std::map<std::string, float> ranges = TensorRanges(agent);
    EXPECT_EQ(ranges.size(), 14u);
    for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
      const std::vector<std::vector<std::string>> joined = {
          {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
          {"self_attn.o_proj"},
          {"mlp.gate_proj", "mlp.up_proj"},
          {"mlp.down_proj"}};
      for (std::vector<std::string> modules : joined) {
        for (std::string& module : modules) module = layer + module;
        for (const std::string& module : modules) {
          EXPECT_FLOAT_EQ(ranges.at(module), LargestOf(modules)) << module;
        }
      }
    }
    // The plain rounding that a report compares with has that scale too.
    if (std::string(method) != "rtn") continue;
    for (const v1::LayerReport& layer : result->report.layers()) {
      EXPECT_EQ(layer.relative_error(), layer.rtn_relative_error());
    }
  }
}

TEST(FormatsJobTest, LayersInOtherFormatsHaveNoPartInATensorScale) {
  v1::JobSpec spec = Job("rtn", "nvfp4");
  v1::Override* row = RecipeOf(spec).add_overrides();
  row->set_pattern("*.v_proj");
  row->set_wq("int4");
  row = RecipeOf(spec).add_overrides();
  row->set_pattern("*.up_proj");
  row->set_skip(true);
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  const std::map<std::string, float> ranges = TensorRanges(agent);
  EXPECT_EQ(ranges.size(), 10u);
  const std::string layer = "model.layers.1.";
  const float joined =
      LargestOf({layer + "self_attn.q_proj", layer + "self_attn.k_proj"});
  EXPECT_FLOAT_EQ(ranges.at(layer + "self_attn.q_proj"), joined);
  EXPECT_FLOAT_EQ(ranges.at(layer + "self_attn.k_proj"), joined);
  EXPECT_FLOAT_EQ(ranges.at(layer + "mlp.gate_proj"),
                  LargestOf({layer + "mlp.gate_proj"}));
}

TEST(FormatsJobTest, ResumedJobsHaveTheSameTensorScales) {
  for (const char* method : {"rtn", "gptq"}) {
    LocalAgent agent(Job(method, "nvfp4"));
    ASSERT_TRUE(agent.Run().ok());
    const std::vector<std::string> expected = agent.BlobDigests();
    for (int steps = 0; steps < 3; ++steps) {
      agent.KeepSteps(steps);
      ASSERT_TRUE(agent.Run().ok());
      EXPECT_EQ(agent.BlobDigests(), expected) << steps;
    }
  }
}

TEST(FormatsJobTest, MethodNf4IsRoundingWithDoubleQuantization) {
  const auto preset = spec::RecipeFromPreset(DescribeBuild(), "nf4");
  ASSERT_TRUE(preset.ok()) << preset.status();
  v1::JobSpec spec = Job("rtn", "nf4");
  v1::Recipe recipe = *preset;
  *recipe.mutable_calibration() = spec.quantize().recipe().calibration();
  *spec.mutable_quantize()->mutable_recipe() = recipe;
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_NEAR(result->report.bits_per_weight(), 4.127, 1e-3);
}

TEST(FormatsJobTest, TheGptqLayoutIsRefusedWithWhatWorks) {
  v1::JobSpec spec = Job("rtn", "nf4");
  spec.mutable_quantize()->mutable_recipe()->mutable_exports(0)->set_id("gptq");
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(std::string(result.status().message()),
              testing::HasSubstr("dequantized"));
}

}  // namespace
}  // namespace quantd::pipeline
