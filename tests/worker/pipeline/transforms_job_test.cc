// SPDX-License-Identifier: Apache-2.0
// Whole jobs with transforms, on a small random model and on the bundled one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/error.h"
#include "tests/worker/pipeline/local_agent.h"
#include "tests/worker/pipeline/tiny_job.h"
#include "worker/checkpoints/reader.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/pipeline/pipeline.h"

namespace quantd::pipeline {
namespace {

using testing::HasSubstr;

v1::JobSpec Job(const std::vector<std::string>& transforms,
                const std::string& method = "rtn") {
  v1::JobSpec spec = TinyJob(method);
  for (const std::string& id : transforms) {
    RecipeOf(spec).add_transforms()->set_id(id);
  }
  RecipeOf(spec).mutable_weights()->set_symmetric(false);
  RecipeOf(spec).mutable_exports(0)->set_id("dequantized");
  return spec;
}

struct Combination {
  std::vector<std::string> transforms;
  std::string method;
};

class TransformResume : public testing::TestWithParam<Combination> {};

TEST_P(TransformResume, FromEveryStepGivesTheSameBytes) {
  LocalAgent undisturbed(Job(GetParam().transforms, GetParam().method));
  const auto result = undisturbed.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->report.layers_size(), 14);
  EXPECT_LT(result->report.verify_max_difference(), 1e-4);
  const std::vector<std::string> expected = undisturbed.BlobDigests();
  const int steps = undisturbed.start_.committed_size();
  for (int kept = 0; kept < steps; ++kept) {
    undisturbed.KeepSteps(kept);
    undisturbed.steps_run_ = 0;
    const auto again = undisturbed.Run();
    ASSERT_TRUE(again.ok()) << kept << again.status();
    EXPECT_EQ(undisturbed.BlobDigests(), expected) << kept;
    EXPECT_EQ(undisturbed.steps_run_, steps - kept);
  }
}

INSTANTIATE_TEST_SUITE_P(Combinations, TransformResume,
                         testing::Values(Combination{{"awq", "clip"}, "rtn"},
                                         Combination{{"smoothquant"}, "gptq"},
                                         Combination{{"magr"}, "gptq"},
                                         Combination{{"quarot"}, "gptq"},
                                         Combination{{"quarot", "awq"},
                                                     "rtn"}));

TEST(TransformsJobTest, LostActivationsAreComputedAgainToTheSameBytes) {
  LocalAgent agent(Job({"awq"}));
  ASSERT_TRUE(agent.Run().ok());
  const std::vector<std::string> expected = agent.BlobDigests();
  agent.KeepSteps(2);
  agent.LoseBlob(1, "activations");
  ASSERT_TRUE(agent.Run().ok());
  EXPECT_EQ(agent.BlobDigests(), expected);
}

TEST(TransformsJobTest, WhatWasFittedIsPartOfTheStepAndOfTheArtifact) {
  LocalAgent agent(Job({"awq"}));
  ASSERT_TRUE(agent.Run().ok());
  EXPECT_EQ(agent.start_.committed(1).blobs().count("transform"), 1);
  const auto source = *checkpoints::OpenCheckpoint(TinyInputs().File("tiny"));
  const auto exported = *checkpoints::ReadSafetensors(
      agent.BlobFile(agent.StepOfKind("export"), "file:model.safetensors"));
  int changed = 0;
  for (const char* norm : {"model.layers.0.input_layernorm.weight",
                           "model.layers.0.post_attention_layernorm.weight",
                           "model.layers.1.input_layernorm.weight",
                           "model.layers.1.post_attention_layernorm.weight"}) {
    changed += exported.at(norm).equal(*source->Read(norm)) ? 0 : 1;
  }
  EXPECT_GE(changed, 1);
  EXPECT_TRUE(exported.at("model.norm.weight")
                  .equal(*source->Read("model.norm.weight")));
}

TEST(TransformsJobTest, ALostTransformIsDoneAgainWithItsBlock) {
  LocalAgent agent(Job({"awq"}));
  ASSERT_TRUE(agent.Run().ok());
  const std::vector<std::string> expected = agent.BlobDigests();
  agent.LoseBlob(1, "transform");
  agent.KeepSteps(3);
  LocalAgent fresh(Job({"awq"}));
  *fresh.start_.mutable_committed() = agent.start_.committed();
  *fresh.start_.mutable_blob_files() = agent.start_.blob_files();
  ASSERT_TRUE(fresh.RunOnce().ok());
  // Both blocks and the export.
  EXPECT_EQ(fresh.steps_run_, 3);
}

TEST(TransformsJobTest, ATransformOfTheModelMustComeFirst) {
  LocalAgent agent(Job({"awq", "quarot"}));
  const absl::Status status = agent.Run().status();
  EXPECT_EQ(base::ErrorReason(status), "RECIPE_INVALID");
  EXPECT_EQ(agent.steps_run_, 0);
  EXPECT_THAT(std::string(status.message()), HasSubstr("put quarot first"));
}

TEST(TransformsJobTest, OneThatNobodyHasIsRefusedWithTheNearest) {
  LocalAgent agent(Job({"awk"}));
  EXPECT_THAT(std::string(agent.Run().status().message()), HasSubstr("awq"));
}

TEST(TransformsJobTest, RotatingATiedModelGivesTheArtifactAHead) {
  v1::JobSpec spec = Job({"quarot"}, "gptq");
  spec.mutable_quantize()->set_model(TinyInputs().File("tied"));
  RecipeOf(spec).set_quantize_lm_head(true);
  RecipeOf(spec).mutable_exports(0)->set_id("gptq");
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  const auto exported = *checkpoints::ReadSafetensors(
      agent.BlobFile(agent.StepOfKind("export"), "file:model.safetensors"));
  EXPECT_EQ(exported.count("lm_head.qweight"), 1u);
  EXPECT_EQ(exported.count("model.embed_tokens.weight"), 1u);
}

TEST(TransformsJobTest, OverridesDecideWhatScalesAreFittedTo) {
  v1::JobSpec spec = Job({"awq", "clip", "smoothquant"});
  v1::Override& row = *RecipeOf(spec).add_overrides();
  row.set_pattern("model.layers.1.*");
  row.set_skip(true);
  LocalAgent agent(spec);
  ASSERT_TRUE(agent.Run().ok());
  EXPECT_EQ(agent.start_.committed(1).blobs().count("transform"), 1);
  EXPECT_EQ(agent.start_.committed(2).blobs().count("transform"), 0);
}

// What was fitted to block `block`.
std::string Fitted(LocalAgent& agent, int block) {
  return agent.start_.committed(1 + block).blobs().at("transform").sha256();
}

v1::JobSpec WithExtra(v1::JobSpec spec, const std::string& pattern,
                      const std::string& key, double value) {
  v1::Override& row = *RecipeOf(spec).add_overrides();
  row.set_pattern(pattern);
  (*row.mutable_extra())[key].set_double_value(value);
  return spec;
}

TEST(TransformsJobTest, LayersMayHaveParametersOfTheirOwn) {
  v1::JobSpec everywhere = Job({"smoothquant"});
  (*RecipeOf(everywhere).mutable_transforms(0)->mutable_params())["alpha"]
      .set_double_value(0.8);
  LocalAgent all(everywhere);
  ASSERT_TRUE(all.Run().ok());
  LocalAgent first(WithExtra(Job({"smoothquant"}), "model.layers.0.*",
                             "smoothquant.alpha", 0.8));
  ASSERT_TRUE(first.Run().ok());
  EXPECT_EQ(Fitted(first, 0), Fitted(all, 0));
  EXPECT_NE(Fitted(first, 1), Fitted(all, 1));
}

TEST(TransformsJobTest, LayersThatShareAScaleShareItsParameters) {
  LocalAgent agent(WithExtra(Job({"smoothquant"}),
                             "model.layers.0.self_attn.q_proj",
                             "smoothquant.alpha", 0.8));
  const absl::Status status = agent.Run().status();
  EXPECT_EQ(base::ErrorReason(status), "TRANSFORM_PARAMETERS_DIFFER");
  EXPECT_THAT(std::string(status.message()), HasSubstr("k_proj"));
  EXPECT_EQ(agent.steps_run_, 0);
}

TEST(TransformsJobTest, ParametersOfLayersAreCheckedLikeOthers) {
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"awq.grid", "none called"},
      {"smoothquant.alpha", "alpha"},
      {"smoothquant.alfa", "alfa"},
      {"quarot.rotate_values", "acts on the whole model"}};
  for (const auto& [key, words] : wrong) {
    LocalAgent agent(
        WithExtra(Job({"quarot", "smoothquant"}), "model.layers.0.*", key, 7));
    const absl::Status status = agent.Run().status();
    EXPECT_EQ(base::ErrorReason(status), "RECIPE_INVALID") << key;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
    EXPECT_EQ(agent.steps_run_, 0);
  }
}

TEST(TransformsJobTest, RoundingWithATransformOfWeightsAloneNeedsNoText) {
  v1::JobSpec spec = Job({"quarot", "clip"});
  (*RecipeOf(spec).mutable_transforms(1)->mutable_params())["objective"]
      .set_string_value("weights");
  RecipeOf(spec).mutable_calibration()->set_dataset("there-is-no-such-file");
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->report.calibration_tokens(), 0);
  EXPECT_EQ(agent.start_.committed(1).blobs().count("transform"), 1);
}

// Perplexities of the bundled model as it was given and of its three-bit
// rounding.
std::vector<double> Scores(const std::vector<std::string>& transforms) {
  v1::JobSpec spec = Job(transforms);
  spec.mutable_quantize()->set_model(support::SourcePath("deploy/models/tiny"));
  RecipeOf(spec).mutable_weights()->set_format("int3");
  v1::Calibration& calibration = *RecipeOf(spec).mutable_calibration();
  calibration.set_dataset("bundled");
  calibration.set_num_samples(64);
  calibration.set_sequence_length(128);
  RecipeOf(spec).add_evals()->set_id("perplexity");
  LocalAgent agent(spec);
  const auto result = agent.Run();
  EXPECT_TRUE(result.ok()) << result.status();
  if (!result.ok()) return {0, 0};
  return {result->report.evals(0).metrics(0).value(),
          result->report.evals(1).metrics(0).value()};
}

TEST(TrainedModelTest, TheFloatModelIsScoredAsItWasGiven) {
  const std::vector<double> plain = Scores({});
  for (const std::string id : {"awq", "quarot", "clip"}) {
    const std::vector<double> transformed = Scores({id});
    EXPECT_EQ(transformed[0], plain[0]) << id;
    EXPECT_NE(transformed[1], plain[1]) << id;
    // Between the float model and twice what rounding alone loses.
    EXPECT_GT(transformed[1], plain[0]) << id;
    EXPECT_LT(transformed[1], 2 * plain[1] - plain[0]) << id;
  }
}

TEST(TrainedModelTest, ClippingWinsBackSomeOfWhatThreeBitsLose) {
  EXPECT_LT(Scores({"clip"})[1], Scores({})[1]);
}

}  // namespace
}  // namespace quantd::pipeline
