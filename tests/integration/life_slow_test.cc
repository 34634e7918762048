// SPDX-License-Identifier: Apache-2.0
// A job from submit to a verified artifact, through real processes and qctl.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "tests/integration/cluster.h"

namespace quantd::integration {
namespace {

using support::Program;
using support::RunCommand;
using testing::HasSubstr;

class LifeTest : public testing::Test {
 protected:
  void SetUp() override {
    cluster_.StartServer();
    cluster_.StartWorker();
  }

  support::CommandResult Qctl(std::vector<std::string> words) {
    words.insert(words.begin(),
                 {Program("qctl"), "--server", cluster_.address()});
    return RunCommand(words);
  }

  std::vector<std::string> SubmitWords(const std::string& method, int bits) {
    return {"submit",
            "--method",
            method,
            "--model",
            support::SourcePath("deploy/models/tiny"),
            "--bits",
            absl::StrCat(bits),
            "--group-size",
            "64",
            "--nsamples",
            "8",
            "--seqlen",
            "128",
            "--calib",
            "bundled",
            "--eval",
            "perplexity:window=128,windows=8,"
            "data=bundled-heldout",
            "--watch"};
  }

  support::TemporaryDirectory directory_;
  Cluster cluster_{directory_.path()};
};

TEST_F(LifeTest, SubmitWatchPullAndVerify) {
  const support::CommandResult submitted = Qctl(SubmitWords("gptq", 4));
  EXPECT_EQ(submitted.exit_code, 0) << submitted.output;
  EXPECT_THAT(submitted.output, HasSubstr("perplexity"));
  const support::CommandResult listed =
      Qctl({"artifact", "list", "-o", "name"});
  ASSERT_EQ(listed.exit_code, 0) << listed.output;
  const std::string artifact =
      listed.output.substr(0, listed.output.find('\n'));
  const std::string place = directory_.File("pulled");
  const support::CommandResult pulled =
      Qctl({"artifact", "pull", artifact, place});
  EXPECT_EQ(pulled.exit_code, 0) << pulled.output;
  EXPECT_TRUE(std::filesystem::exists(place + "/config.json"));
  EXPECT_TRUE(std::filesystem::exists(place + "/model.safetensors"));
  EXPECT_EQ(Qctl({"artifact", "verify", place}).exit_code, 0);
}

TEST_F(LifeTest, AMistypedMethodIsAUsageErrorThatNamesTheNearest) {
  const support::CommandResult result = Qctl(SubmitWords("gtpq", 4));
  EXPECT_EQ(result.exit_code, 2) << result.output;
  EXPECT_THAT(result.output, HasSubstr("gptq"));
}

TEST_F(LifeTest, AModelThatIsNotThereFailsTheJob) {
  std::vector<std::string> words = SubmitWords("rtn", 4);
  words[4] = directory_.File("nothing");
  const support::CommandResult result = Qctl(words);
  EXPECT_EQ(result.exit_code, 3) << result.output;
  EXPECT_THAT(result.output, HasSubstr("MODEL_NOT_FOUND"));
}

TEST_F(LifeTest, ACancelledJobEndsAndItsRunnerIsGone) {
  v1::JobSpec spec = TinyJob("gptq", 4);
  spec.mutable_quantize()
      ->mutable_recipe()
      ->mutable_calibration()
      ->set_num_samples(64);
  const std::string id = cluster_.Submit(spec, "cancel");
  ASSERT_EQ(Qctl({"cancel", id}).exit_code, 0);
  const v1::Job job = cluster_.WaitTerminal(id, absl::Minutes(1));
  EXPECT_EQ(job.state(), v1::JOB_STATE_CANCELLED) << job.ShortDebugString();
}

TEST_F(LifeTest, SigtermStopsTheServerCleanlyAndTheWorkGoesOn) {
  const std::string id = cluster_.Submit(TinyJob("gptq", 4), "term");
  cluster_.server().Signal(SIGTERM);
  EXPECT_EQ(cluster_.server().Wait(absl::Seconds(20)), 0)
      << cluster_.ServerLog();
  cluster_.StartServer();
  const v1::Job job = cluster_.WaitTerminal(id, absl::Minutes(2));
  EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.ShortDebugString();
  EXPECT_EQ(job.attempt(), 1);
}

}  // namespace
}  // namespace quantd::integration
