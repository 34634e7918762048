// SPDX-License-Identifier: Apache-2.0
// Whole jobs with transforms, on a small random model and on the bundled one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "proto/base/error.h"
#include "tests/support/tiny_checkpoint.h"
#include "tests/worker/pipeline/local_agent.h"
#include "worker/checkpoints/reader.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/pipeline/pipeline.h"

namespace quantd::pipeline {
namespace {

using testing::HasSubstr;

const support::TemporaryDirectory& Inputs() {
  static const auto& directory = *new support::TemporaryDirectory();
  static const bool made = [] {
    support::WriteTinyLlama({}, directory.File("tiny"));
    support::WriteTinyLlama({.tied = true}, directory.File("tied"));
    std::ofstream text(directory.File("text.txt"));
    for (int i = 0; i < 400; ++i) {
      text << "Number " << i * i % 97 << " met a fox near the old mill. ";
    }
    return true;
  }();
  EXPECT_TRUE(made);
  return directory;
}

v1::JobSpec Job(const std::vector<std::string>& transforms,
                const std::string& method = "rtn") {
  v1::JobSpec spec;
  v1::QuantizeSpec& quantize = *spec.mutable_quantize();
  quantize.set_model(Inputs().File("tiny"));
  v1::Recipe& recipe = *quantize.mutable_recipe();
  for (const std::string& id : transforms) {
    recipe.add_transforms()->set_id(id);
  }
  recipe.mutable_method()->set_id(method);
  recipe.mutable_weights()->set_format("int4");
  recipe.mutable_weights()->set_group_size(32);
  recipe.mutable_weights()->set_symmetric(false);
  v1::Calibration& calibration = *recipe.mutable_calibration();
  calibration.set_dataset(Inputs().File("text.txt"));
  calibration.set_num_samples(6);
  calibration.set_sequence_length(48);
  recipe.add_exports()->set_id("dequantized");
  return spec;
}

v1::Recipe& RecipeOf(v1::JobSpec& spec) {
  return *spec.mutable_quantize()->mutable_recipe();
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
                                         Combination{{"quarot"}, "gptq"},
                                         Combination{{"quarot", "awq"},
                                                     "rtn"}));

TEST(TransformsJobTest, LostActivationsAreComputedAgainToTheSameBytes) {
  LocalAgent agent(Job({"awq"}));
  ASSERT_TRUE(agent.Run().ok());
  const std::vector<std::string> expected = agent.BlobDigests();
  agent.KeepSteps(2);
  agent.start_.mutable_blob_files()->erase(
      agent.start_.committed(1).blobs().at("activations").sha256());
  ASSERT_TRUE(agent.Run().ok());
  EXPECT_EQ(agent.BlobDigests(), expected);
}

TEST(TransformsJobTest, WhatWasFittedIsPartOfTheStepAndOfTheArtifact) {
  LocalAgent agent(Job({"awq"}));
  ASSERT_TRUE(agent.Run().ok());
  EXPECT_EQ(agent.start_.committed(1).blobs().count("transform"), 1);
  const auto source = *checkpoints::OpenCheckpoint(Inputs().File("tiny"));
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
  agent.start_.mutable_blob_files()->erase(
      agent.start_.committed(1).blobs().at("transform").sha256());
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
  EXPECT_EQ(base::ErrorReason(status), "TRANSFORM_ORDER");
  EXPECT_THAT(std::string(status.message()), HasSubstr("put quarot first"));
}

TEST(TransformsJobTest, OneThatNobodyHasIsRefusedWithTheNearest) {
  LocalAgent agent(Job({"awk"}));
  EXPECT_THAT(std::string(agent.Run().status().message()), HasSubstr("awq"));
}

TEST(TransformsJobTest, RotatingATiedModelGivesTheArtifactAHead) {
  v1::JobSpec spec = Job({"quarot"}, "gptq");
  spec.mutable_quantize()->set_model(Inputs().File("tied"));
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
