// SPDX-License-Identifier: Apache-2.0
// Whole jobs of methods that quantize layer by layer, ended in the middle of a
// block: what is done of it is not done again, and the bytes are the same.
#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/worker/pipeline/local_agent.h"
#include "tests/worker/pipeline/tiny_job.h"
#include "worker/pipeline/pipeline.h"

namespace quantd::pipeline {
namespace {

namespace fs = std::filesystem;

constexpr int kIterations = 6;

// The modules whose optimisation was seen at `step`.
std::set<std::string> ModulesAt(const LocalAgent& agent, int step) {
  std::set<std::string> modules;
  for (const v1::Progress& progress : agent.progress_) {
    std::pair<std::string, std::string> words =
        absl::StrSplit(progress.detail(), ", iteration ");
    if (words.second == absl::StrCat(step, " of ", kIterations)) {
      modules.insert(words.first);
    }
  }
  return modules;
}

// All that a report says but for times.
std::vector<std::string> Layers(const v1::JobReport& report) {
  std::vector<std::string> layers;
  for (v1::LayerReport layer : report.layers()) {
    layer.clear_seconds();
    layers.push_back(layer.SerializeAsString());
  }
  return layers;
}

class LayerResumeTest : public testing::TestWithParam<const char*> {
 protected:
  LayerResumeTest() : job_(TinyJob(GetParam())) {
    RecipeOf(job_).mutable_weights()->set_format("int3");
    RecipeOf(job_).set_quantize_lm_head(true);
    if (IsLearned()) {
      auto& params = *RecipeOf(job_).mutable_method()->mutable_params();
      params["iterations"].set_int_value(kIterations);
    }
  }
  static bool IsLearned() { return std::string(GetParam()) == "adaround"; }

  // The state of every step and linear.
  std::string KeepCheckpoints(LocalAgent* agent) const {
    const std::string directory = folder_.File("checkpoint");
    fs::remove_all(directory);
    agent->start_.set_checkpoint_directory(directory);
    return directory;
  }

  const support::TemporaryDirectory folder_;
  v1::JobSpec job_;
};

TEST_P(LayerResumeTest, EndedAtAnyLookItGoesOnToTheSameBytes) {
  LocalAgent whole(job_);
  const auto wanted = whole.Run();
  ASSERT_TRUE(wanted.ok()) << wanted.status();
  // The first process alone: a second one verifies.
  LocalAgent counted(job_);
  ASSERT_TRUE(counted.RunOnce().ok());
  const int64_t looks = counted.cancel_.looks();
  constexpr int64_t kCuts = 7;
  int inside = 0;
  for (int64_t cut = 1; cut < kCuts; ++cut) {
    LocalAgent ended(job_);
    const std::string directory = KeepCheckpoints(&ended);
    ended.cancel_.CancelAfter(looks * cut / kCuts);
    ASSERT_TRUE(absl::IsCancelled(ended.Run().status())) << cut;
    if (fs::exists(directory) && !fs::is_empty(directory)) ++inside;
    LocalAgent resumed(job_);
    resumed.start_ = ended.start_;
    const auto result = resumed.Run();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(resumed.BlobDigests(), whole.BlobDigests()) << cut;
    EXPECT_EQ(Layers(result->report), Layers(wanted->report)) << cut;
    EXPECT_TRUE(fs::is_empty(directory));
    // What the ended process was through with.
    const std::set<std::string> again = ModulesAt(resumed, 0);
    for (const std::string& module : ModulesAt(ended, kIterations)) {
      EXPECT_FALSE(again.contains(module)) << module;
    }
  }
  EXPECT_GT(inside, 2);
}

TEST_P(LayerResumeTest, WhatIsDamagedOrOfAnotherJobIsNotUsed) {
  LocalAgent whole(job_);
  ASSERT_TRUE(whole.Run().ok());
  LocalAgent counted(job_);
  ASSERT_TRUE(counted.RunOnce().ok());
  for (const bool damaged : {true, false}) {
    LocalAgent ended(job_);
    const std::string directory = KeepCheckpoints(&ended);
    int64_t kept = 0;
    for (int64_t part = 2; kept == 0; ++part) {
      ended.KeepSteps(0);
      ended.cancel_.CancelAfter(ended.cancel_.looks() +
                                counted.cancel_.looks() * part / 12);
      ASSERT_TRUE(absl::IsCancelled(ended.Run().status()));
      std::error_code ignored;
      kept = std::distance(fs::directory_iterator(directory, ignored), {});
    }
    v1::JobSpec next = job_;
    if (damaged) {
      for (const auto& entry : fs::directory_iterator(directory)) {
        std::ofstream(entry.path(), std::ios::app) << "?";
      }
    } else {
      RecipeOf(next).mutable_weights()->set_format("int2");
    }
    LocalAgent fresh(next);
    ASSERT_TRUE(fresh.Run().ok());
    LocalAgent resumed(next);
    resumed.start_.set_checkpoint_directory(directory);
    ASSERT_TRUE(resumed.Run().ok());
    EXPECT_EQ(resumed.BlobDigests(), fresh.BlobDigests());
  }
}

TEST_P(LayerResumeTest, AKilledProcessLosesLittleOfABlock) {
  LocalAgent whole(job_);
  ASSERT_TRUE(whole.Run().ok());
  LocalAgent killed(job_);
  const std::string directory = KeepCheckpoints(&killed);
  const pid_t child = fork();
  if (child == 0) {
    // Work directories of its own.
    killed.processes_ = 100;
    killed.on_progress_ = [](const v1::Progress& progress) {
      if (absl::StrContains(progress.detail(), "layers.0.mlp.up_proj")) {
        kill(getpid(), SIGKILL);
      }
    };
    killed.Run().IgnoreError();
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  ASSERT_FALSE(fs::is_empty(directory));
  ASSERT_TRUE(killed.Run().ok());
  EXPECT_EQ(killed.BlobDigests(), whole.BlobDigests());
  EXPECT_TRUE(fs::is_empty(directory));
  EXPECT_FALSE(
      ModulesAt(killed, 0).contains("model.layers.0.self_attn.q_proj"));
}

TEST_P(LayerResumeTest, LearnedLayersReportTheirCurve) {
  LocalAgent agent(job_);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  for (const v1::LayerReport& layer : result->report.layers()) {
    if (!IsLearned()) {
      EXPECT_EQ(layer.loss_curve_size(), 0);
      EXPECT_EQ(layer.last_loss(), 0);
      continue;
    }
    ASSERT_EQ(layer.loss_curve_size(), kIterations + 1) << layer.name();
    EXPECT_EQ(layer.loss_curve(0).step(), 0);
    EXPECT_EQ(layer.loss_curve(0).loss(), layer.first_loss());
    EXPECT_EQ(layer.loss_curve(kIterations).step(), kIterations);
    EXPECT_EQ(layer.loss_curve(kIterations).loss(), layer.last_loss());
    EXPECT_LE(layer.last_loss(), 1 + 1e-6);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, LayerResumeTest,
                         testing::Values("adaround", "gptq"),
                         [](const auto& test) {
                           return std::string(test.param);
                         });

}  // namespace
}  // namespace quantd::pipeline
