// SPDX-License-Identifier: Apache-2.0
// Whole jobs of the methods that round a block together, on a small random
// model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "proto/base/error.h"
#include "tests/worker/pipeline/local_agent.h"
#include "tests/worker/pipeline/tiny_job.h"
#include "worker/pipeline/pipeline.h"

namespace quantd::pipeline {
namespace {

namespace fs = std::filesystem;

class BlockReconstructionTest : public testing::TestWithParam<const char*> {
 protected:
  BlockReconstructionTest() : job_(TinyJob(GetParam())) {
    auto& params = *recipe().mutable_method()->mutable_params();
    params["iterations"].set_int_value(25);
    params["batch"].set_int_value(3);
    // Far enough to get somewhere in so few iterations.
    params["learning_rate"].set_double_value(0.1);
    recipe().mutable_weights()->set_format("int2");
    recipe().mutable_weights()->set_symmetric(false);
  }
  v1::Recipe& recipe() { return RecipeOf(job_); }

  // The state of every iteration.
  void KeepCheckpoints(LocalAgent* agent) {
    agent->start_.set_checkpoint_directory(folder_.File("checkpoint"));
    fs::remove_all(agent->start_.checkpoint_directory());
  }

  const support::TemporaryDirectory folder_;
  v1::JobSpec job_;
};

TEST_P(BlockReconstructionTest, EndsWithAVerifiedArtifactAndALossCurve) {
  LocalAgent agent(job_);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->report.layers_size(), 14);
  for (const v1::LayerReport& layer : result->report.layers()) {
    EXPECT_EQ(layer.verdict(), v1::VERDICT_OK) << layer.name();
    EXPECT_EQ(layer.tokens(), 6 * 48);
    EXPECT_GT(layer.last_loss(), 0) << layer.name();
    EXPECT_LE(layer.last_loss(), 1) << layer.name();
    // The first of a block has the curve of all.
    const bool first = absl::EndsWith(layer.name(), "q_proj");
    ASSERT_EQ(layer.loss_curve_size(), first ? 26 : 0) << layer.name();
    if (!first) continue;
    EXPECT_EQ(layer.loss_curve(0).loss(), layer.first_loss());
    EXPECT_EQ(layer.loss_curve(25).step(), 25);
    EXPECT_EQ(layer.loss_curve(25).loss(), layer.last_loss());
  }
  int first = 0;
  int last = 0;
  for (const v1::Progress& progress : agent.progress_) {
    if (absl::StrContains(progress.detail(), "iteration 0 of 25")) ++first;
    if (absl::StrContains(progress.detail(), "iteration 25 of 25")) ++last;
  }
  EXPECT_EQ(first, 2);
  EXPECT_EQ(last, 2);
}

TEST_P(BlockReconstructionTest, ABlockThatIsDoneAgainIsTheSameBytes) {
  LocalAgent whole(job_);
  ASSERT_TRUE(whole.Run().ok());
  LocalAgent broken(job_);
  broken.stop_before_ = 2;
  EXPECT_TRUE(absl::IsAborted(broken.Run().status()));
  broken.stop_before_ = -1;
  ASSERT_TRUE(broken.Run().ok());
  EXPECT_EQ(broken.BlobDigests(), whole.BlobDigests());
  // Without the activations the first block is run again.
  LocalAgent replayed(job_);
  replayed.stop_before_ = 2;
  EXPECT_TRUE(absl::IsAborted(replayed.Run().status()));
  replayed.stop_before_ = -1;
  replayed.LoseBlob(1, "activations");
  ASSERT_TRUE(replayed.Run().ok());
  EXPECT_EQ(replayed.BlobDigests(), whole.BlobDigests());
}

TEST_P(BlockReconstructionTest, LinearsThatStayFloatAreReplayedToTheSameBytes) {
  v1::Override* keep = recipe().add_overrides();
  keep->set_pattern("*.o_proj");
  keep->set_skip(true);
  LocalAgent whole(job_);
  ASSERT_TRUE(whole.Run().ok());
  LocalAgent replayed(job_);
  replayed.stop_before_ = 2;
  EXPECT_TRUE(absl::IsAborted(replayed.Run().status()));
  replayed.stop_before_ = -1;
  replayed.LoseBlob(1, "activations");
  ASSERT_TRUE(replayed.Run().ok());
  EXPECT_EQ(replayed.BlobDigests(), whole.BlobDigests());
}

TEST_P(BlockReconstructionTest, AKilledProcessLosesLittleOfABlock) {
  LocalAgent whole(job_);
  ASSERT_TRUE(whole.Run().ok());
  LocalAgent killed(job_);
  KeepCheckpoints(&killed);
  const pid_t child = fork();
  if (child == 0) {
    // Work directories of its own.
    killed.processes_ = 100;
    killed.on_progress_ = [](const v1::Progress& progress) {
      const std::string& detail = progress.detail();
      if (absl::StrContains(detail, "iteration") &&
          !absl::StrContains(detail, "iteration 0 of")) {
        kill(getpid(), SIGKILL);
      }
    };
    killed.Run().IgnoreError();
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  ASSERT_FALSE(fs::is_empty(killed.start_.checkpoint_directory()));
  ASSERT_TRUE(killed.Run().ok());
  EXPECT_EQ(killed.BlobDigests(), whole.BlobDigests());
  EXPECT_TRUE(fs::is_empty(killed.start_.checkpoint_directory()));
}

TEST_P(BlockReconstructionTest, ABlockGoesOnFromWhatWasKeptOfIt) {
  LocalAgent whole(job_);
  const auto wanted = whole.Run();
  ASSERT_TRUE(wanted.ok());
  for (const bool damaged : {false, true}) {
    LocalAgent cut(job_);
    KeepCheckpoints(&cut);
    cut.on_progress_ = [&cut](const v1::Progress& progress) {
      const std::string& detail = progress.detail();
      if (absl::StrContains(detail, "iteration") &&
          !absl::StrContains(detail, "iteration 0 of")) {
        cut.cancel_.Cancel();
      }
    };
    EXPECT_TRUE(absl::IsCancelled(cut.Run().status()));
    const std::string directory = cut.start_.checkpoint_directory();
    ASSERT_FALSE(fs::is_empty(directory));
    for (const auto& kept : fs::directory_iterator(directory)) {
      std::fstream file(kept.path(),
                        std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(-1, std::ios::end);
      if (damaged) file.put('?');
    }
    // The first word of each block's curve.
    std::vector<std::string> first;
    int64_t block = -1;
    LocalAgent resumed(job_);
    resumed.start_ = cut.start_;
    resumed.on_progress_ = [&](const v1::Progress& progress) {
      if (!absl::StrContains(progress.detail(), "iteration")) return;
      if (std::exchange(block, progress.block()) == progress.block()) return;
      first.push_back(progress.detail());
    };
    const auto result = resumed.Run();
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(resumed.BlobDigests(), whole.BlobDigests());
    for (int i = 0; i < wanted->report.layers_size(); ++i) {
      v1::LayerReport one = wanted->report.layers(i);
      v1::LayerReport other = result->report.layers(i);
      one.clear_seconds();
      other.clear_seconds();
      EXPECT_EQ(one.SerializeAsString(), other.SerializeAsString());
    }
    ASSERT_EQ(first.size(), 2);
    EXPECT_EQ(absl::StrContains(first[0], "iteration 0 of"), damaged);
    EXPECT_TRUE(absl::StrContains(first[1], "iteration 0 of"));
  }
}

TEST_P(BlockReconstructionTest, AnotherSeedIsAnotherResult) {
  LocalAgent one(job_);
  ASSERT_TRUE(one.Run().ok());
  (*recipe().mutable_method()->mutable_params())["seed"].set_int_value(7);
  LocalAgent other(job_);
  ASSERT_TRUE(other.Run().ok());
  EXPECT_NE(one.start_.committed(1).blobs().at("weights").sha256(),
            other.start_.committed(1).blobs().at("weights").sha256());
}

TEST_P(BlockReconstructionTest, TheHeadIsDoneAlone) {
  recipe().set_quantize_lm_head(true);
  LocalAgent agent(job_);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  const v1::LayerReport& head =
      result->report.layers(result->report.layers_size() - 1);
  EXPECT_EQ(head.name(), "lm_head");
  EXPECT_LT(head.relative_error(), head.rtn_relative_error());
}

TEST_P(BlockReconstructionTest, OneBlockHasOneSetOfParameters) {
  v1::Override* override_row = recipe().add_overrides();
  override_row->set_pattern("*.q_proj");
  (*override_row->mutable_extra())["iterations"].set_int_value(3);
  LocalAgent agent(job_);
  EXPECT_EQ(base::ErrorReason(agent.Run().status()),
            "METHOD_PARAMETERS_DIFFER");
}

INSTANTIATE_TEST_SUITE_P(Methods, BlockReconstructionTest,
                         testing::Values("autoround", "brecq"),
                         [](const auto& test) {
                           return std::string(test.param);
                         });

}  // namespace
}  // namespace quantd::pipeline
