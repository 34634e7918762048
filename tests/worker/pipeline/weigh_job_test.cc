// SPDX-License-Identifier: Apache-2.0
// Whole jobs in which errors of blocks' outputs count by the gradient of the
// float model's loss.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/spec/presets.h"
#include "tests/worker/pipeline/local_agent.h"
#include "tests/worker/pipeline/tiny_job.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/pipeline/pipeline.h"

namespace quantd::pipeline {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kBlocks = 3;

const std::string& Model() {
  static const auto& path = *[] {
    auto* folder = new support::TemporaryDirectory();
    support::WriteTinyLlama({.layers = kBlocks}, folder->File("model"));
    return new std::string(folder->File("model"));
  }();
  return path;
}

v1::JobSpec WeightedJob(const std::string& weighting = "fisher",
                        const std::string& model = Model()) {
  v1::JobSpec spec = JobOver(model, TinyInputs().File("text.txt"), "brecq");
  v1::Recipe& recipe = RecipeOf(spec);
  recipe.mutable_weights()->set_format("int2");
  recipe.mutable_weights()->set_symmetric(false);
  auto& params = *recipe.mutable_method()->mutable_params();
  params["iterations"].set_int_value(6);
  params["learning_rate"].set_double_value(0.1);
  params["weighting"].set_string_value(weighting);
  return spec;
}

std::vector<std::string> NamesOf(const LocalAgent& agent,
                                 const std::string& kind) {
  std::vector<std::string> names;
  for (const v1::Step& step : agent.start_.committed()) {
    if (step.kind() == kind) names.push_back(step.name());
  }
  return names;
}

std::string WeightsDigest(const LocalAgent& agent, int64_t block) {
  const int first = agent.StepOfKind("block");
  return agent.start_.committed(first + static_cast<int>(block))
      .blobs()
      .at("weights")
      .sha256();
}

TEST(WeighJobTest, WeighsEveryOutputFromTheLastBlockToTheFirst) {
  LocalAgent agent(WeightedJob());
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(NamesOf(agent, "weigh"), ElementsAre("2", "1", "0"));
  const int first = agent.StepOfKind("weigh");
  for (int step = first; step < first + kBlocks; ++step) {
    const auto file =
        checkpoints::ReadSafetensors(agent.BlobFile(step, "output_weights"));
    ASSERT_TRUE(file.ok()) << file.status();
    const at::Tensor& weights = file->at("weights");
    EXPECT_EQ(weights.sizes(), at::IntArrayRef({6 * 48, 64}));
    EXPECT_GE(weights.min().item<float>(), 1);
    EXPECT_GT(weights.max().item<float>(), 2);
  }
  for (const v1::LayerReport& layer : result->report.layers()) {
    EXPECT_EQ(layer.verdict(), v1::VERDICT_OK) << layer.name();
  }
}

TEST(WeighJobTest, WeightsChangeWhatIsLearned) {
  LocalAgent weighted(WeightedJob());
  ASSERT_TRUE(weighted.Run().ok());
  LocalAgent plain(WeightedJob("plain"));
  ASSERT_TRUE(plain.Run().ok());
  EXPECT_EQ(plain.StepOfKind("weigh"), -1);
  EXPECT_NE(WeightsDigest(plain, 1), WeightsDigest(weighted, 1));
}

TEST(WeighJobTest, AJobKilledAfterAnyStepEndsInTheSameBytes) {
  LocalAgent undisturbed(WeightedJob());
  ASSERT_TRUE(undisturbed.Run().ok());
  const int last = undisturbed.StepOfKind("block") + kBlocks;
  for (int step = 1; step < last; ++step) {
    LocalAgent agent(WeightedJob());
    agent.stop_before_ = step;
    ASSERT_FALSE(agent.Run().ok());
    agent.stop_before_ = -1;
    ASSERT_TRUE(agent.Run().ok());
    EXPECT_EQ(agent.BlobDigests(), undisturbed.BlobDigests()) << step;
    // Nothing was done twice.
    EXPECT_EQ(agent.steps_run_, undisturbed.steps_run_) << step;
  }
}

TEST(WeighJobTest, LostGradientsAreComputedAgain) {
  LocalAgent undisturbed(WeightedJob());
  ASSERT_TRUE(undisturbed.Run().ok());
  const int first = undisturbed.StepOfKind("weigh");
  for (const bool all : {false, true}) {
    LocalAgent agent(WeightedJob());
    agent.stop_before_ = first + 2;
    ASSERT_FALSE(agent.Run().ok());
    agent.LoseBlob(first + 1, "activations");
    if (all) agent.LoseBlob(first, "activations");
    agent.stop_before_ = -1;
    ASSERT_TRUE(agent.Run().ok());
    EXPECT_EQ(agent.BlobDigests(), undisturbed.BlobDigests());
  }
}

TEST(WeighJobTest, AProcessKilledOnTheWayBackChangesNothing) {
  LocalAgent whole(WeightedJob());
  ASSERT_TRUE(whole.Run().ok());
  LocalAgent killed(WeightedJob());
  const pid_t child = fork();
  if (child == 0) {
    // Work directories of its own.
    killed.processes_ = 100;
    killed.on_progress_ = [](const v1::Progress& progress) {
      if (progress.phase() == "weigh" && progress.detail() == "block 1") {
        kill(getpid(), SIGKILL);
      }
    };
    killed.Run().IgnoreError();
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  ASSERT_TRUE(killed.Run().ok());
  EXPECT_EQ(killed.BlobDigests(), whole.BlobDigests());
}

TEST(WeighJobTest, ACancelledPassStops) {
  for (const char* where : {"block 0, forward", "loss", "block 2"}) {
    LocalAgent agent(WeightedJob());
    agent.on_progress_ = [&](const v1::Progress& progress) {
      if (progress.phase() == "weigh" && progress.detail() == where) {
        agent.cancel_.Cancel();
      }
    };
    EXPECT_TRUE(absl::IsCancelled(agent.Run().status())) << where;
  }
}

TEST(WeighJobTest, ActivationsOnDiskChangeNothing) {
  LocalAgent memory(WeightedJob());
  ASSERT_TRUE(memory.Run().ok());
  LocalAgent disk(WeightedJob());
  disk.start_.set_memory_reduction(1);
  ASSERT_TRUE(disk.Run().ok());
  EXPECT_EQ(disk.BlobDigests(), memory.BlobDigests());
}

TEST(WeighJobTest, OnlyBlocksThatAskAreWeighed) {
  v1::JobSpec spec = WeightedJob();
  for (const char* pattern : {"model.layers.0.*", "model.layers.2.*"}) {
    v1::Override* plain = RecipeOf(spec).add_overrides();
    plain->set_pattern(pattern);
    (*plain->mutable_extra())["weighting"].set_string_value("plain");
  }
  LocalAgent agent(spec);
  ASSERT_TRUE(agent.Run().ok());
  // The gradient comes through block 2 and goes no further than to block 1.
  ASSERT_THAT(NamesOf(agent, "weigh"), ElementsAre("2", "1"));
  const int first = agent.StepOfKind("weigh");
  EXPECT_FALSE(
      agent.start_.committed(first).blobs().contains("output_weights"));
  EXPECT_TRUE(
      agent.start_.committed(first + 1).blobs().contains("output_weights"));
  LocalAgent plain(WeightedJob("plain"));
  ASSERT_TRUE(plain.Run().ok());
  EXPECT_EQ(WeightsDigest(agent, 0), WeightsDigest(plain, 0));
  EXPECT_NE(WeightsDigest(agent, 1), WeightsDigest(plain, 1));
}

TEST(WeighJobTest, TheHeadIsDoneAlone) {
  v1::JobSpec spec = WeightedJob();
  RecipeOf(spec).set_quantize_lm_head(true);
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->report.layers(result->report.layers_size() - 1).name(),
            "lm_head");
}

// A model whose loss is not finite, though no block is the worse for it.
std::string ModelWithABadHead(const support::TemporaryDirectory& folder) {
  const std::string path = folder.File("bad");
  support::WriteTinyLlama({.layers = kBlocks}, path);
  const std::string file = path + "/model.safetensors";
  auto tensors = *checkpoints::ReadSafetensors(file);
  tensors["lm_head.weight"][0][0] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(checkpoints::WriteSafetensors(file, tensors).ok());
  return path;
}

TEST(WeighJobTest, AGradientThatIsNotFiniteLeavesErrorsUnweighted) {
  const support::TemporaryDirectory folder;
  const std::string model = ModelWithABadHead(folder);
  LocalAgent agent(WeightedJob("fisher", model));
  // What such a model says is not finite either.
  EXPECT_EQ(base::ErrorReason(agent.Run().status()), "NUMERIC_LOGITS");
  LocalAgent plain(WeightedJob("plain", model));
  EXPECT_EQ(base::ErrorReason(plain.Run().status()), "NUMERIC_LOGITS");
  const int first = agent.StepOfKind("block");
  ASSERT_GE(first, 0);
  for (int block = 0; block < kBlocks; ++block) {
    EXPECT_EQ(WeightsDigest(agent, block), WeightsDigest(plain, block));
    for (const v1::LayerReport& layer :
         agent.start_.committed(first + block).layers()) {
      EXPECT_EQ(layer.verdict(), v1::VERDICT_UNWEIGHTED);
      EXPECT_THAT(layer.reason(), HasSubstr("gradient"));
    }
  }
}

TEST(WeighJobTest, ThePolicyMayEndTheJobInstead) {
  const support::TemporaryDirectory folder;
  v1::JobSpec spec = WeightedJob("fisher", ModelWithABadHead(folder));
  RecipeOf(spec).mutable_policy()->set_on_numeric_failure("fail");
  LocalAgent agent(spec);
  const absl::Status status = agent.Run().status();
  EXPECT_EQ(base::ErrorReason(status), "NUMERIC_GRADIENT");
  EXPECT_THAT(std::string(status.message()), HasSubstr("block 2"));
}

TEST(BrecqPresetTest, SpendsABudgetOnFourAndSixBits) {
  const auto preset = spec::RecipeFromPreset(DescribeBuild(), "brecq");
  ASSERT_TRUE(preset.ok()) << preset.status();
  ASSERT_EQ(preset->exports_size(), 1);
  const support::TemporaryDirectory folder;
  // Rows of whole groups of 128.
  support::WriteTinyLlama({.hidden = 128, .intermediate = 256},
                          folder.File("model"));
  v1::JobSpec spec = WeightedJob("plain", folder.File("model"));
  v1::Recipe recipe = *preset;
  *recipe.mutable_calibration() = RecipeOf(spec).calibration();
  (*recipe.mutable_method()->mutable_params())["iterations"].set_int_value(2);
  RecipeOf(spec) = recipe;
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_LE(result->report.bits_per_weight(), 4.625);
  EXPECT_GT(result->report.bits_per_weight(), 4.5);
  std::set<std::string> used;
  for (const v1::LayerReport& layer : result->report.layers()) {
    used.insert(layer.format());
  }
  EXPECT_THAT(used, ElementsAre("int4", "int6"));
}

}  // namespace
}  // namespace quantd::pipeline
