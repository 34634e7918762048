// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/agent.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/digest.h"
#include "proto/base/error.h"
#include "tests/worker/agent/agent_fixture.h"

namespace quantd::agent {
namespace {

using AgentTest = AgentFixture;

TEST_F(AgentTest, RegistersWithItsCatalogAndDevice) {
  StartAgent();
  ASSERT_TRUE(server_.Await([&] { return !server_.synchronized().empty(); }));
  const v1::RegisterRequest request = server_.registered()[0];
  EXPECT_EQ(request.worker_name(), "worker-1");
  EXPECT_EQ(request.incarnation(), agent_->incarnation());
  EXPECT_EQ(request.catalog().code_version(), "stub");
  EXPECT_EQ(request.device().id(), "cpu");
  EXPECT_GT(request.device().total_memory_bytes(), 0);
  EXPECT_GE(request.host_memory_bytes(), request.device().free_memory_bytes());
  EXPECT_TRUE(server_.synchronized()[0].accepts_work());
  EXPECT_EQ(server_.synchronized()[0].held_size(), 0);
}

TEST_F(AgentTest, CommitsStepsInOrderWithTheirBlobsThenFinishes) {
  Run("progress:one;step:load;step:block;step:block;done");
  ASSERT_TRUE(AwaitFinished());
  const std::vector<v1::Step> steps = server_.committed();
  ASSERT_EQ(steps.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(steps[i].step(), i);
    const v1::BlobRef& blob = steps[i].blobs().at("weights");
    const std::string text = absl::StrCat("text of ", i);
    EXPECT_EQ(blob.sha256(), base::Sha256Hex(text));
    EXPECT_EQ(blob.size_bytes(), static_cast<int64_t>(text.size()));
    EXPECT_EQ(server_.blobs().at(blob.sha256()), text);
  }
  const v1::FinishRequest finish = server_.finished()[0];
  EXPECT_FALSE(finish.has_failure());
  EXPECT_EQ(finish.report().float_bytes(), 1000);
  ASSERT_EQ(finish.artifacts_size(), 1);
  const v1::Artifact& artifact = finish.artifacts(0);
  EXPECT_EQ(artifact.name(), "stub_artifact");
  ASSERT_EQ(artifact.files_size(), 1);
  EXPECT_EQ(artifact.files(0).path(), "b/model.bin");
  EXPECT_EQ(server_.blobs().at(artifact.files(0).blob().sha256()), "the model");
  EXPECT_EQ(server_.blobs().at(artifact.manifest().sha256()), "{}");
  EXPECT_EQ(artifact.total_bytes(), 9);
}

TEST_F(AgentTest, ReportsProgressAndMemoryWhileItRuns) {
  const std::string gate = directory_.File("gate");
  Run(absl::StrCat("progress:layer 7;gate:", gate, ";done"));
  EXPECT_TRUE(server_.Await([&] {
    const v1::SynchronizeRequest last = LastBeat();
    return last.held_size() == 1 && last.held(0).running() &&
           last.held(0).progress().detail() == "layer 7" &&
           last.held(0).progress().memory_bytes() > 0;
  }));
  std::ofstream(gate) << "";
  EXPECT_TRUE(AwaitFinished());
}

TEST_F(AgentTest, BlobsGoThroughTheSharedDirectoryWhereThereIsOne) {
  options_.blobs = directory_.File("blobs");
  Run("step:load;done");
  ASSERT_TRUE(AwaitFinished());
  EXPECT_EQ(server_.calls("WriteBlob"), 0);
  auto blobs = base::BlobDirectory::Open(options_.blobs);
  ASSERT_TRUE(blobs.ok());
  EXPECT_TRUE((*blobs)->Has(base::Sha256Hex("text of 0")));
}

TEST_F(AgentTest, AFreshProcessGoesOnWhereTheRunnerAsksForOne) {
  Run("step:load;inputs;continue;step:verify;inputs;done");
  ASSERT_TRUE(AwaitFinished());
  const std::vector<v1::Step> steps = server_.committed();
  ASSERT_EQ(steps.size(), 4u);
  const auto blobs = server_.blobs();
  const std::string before = blobs.at(steps[1].blobs().at("weights").sha256());
  const std::string after = blobs.at(steps[3].blobs().at("weights").sha256());
  // The last number is the process's own: it also lists the earlier step.
  const std::string own = after.substr(after.rfind("pid "));
  EXPECT_NE(NumberAfter(before, "pid "), NumberAfter(own, "pid "));
  // The fresh one was given the blobs of the steps committed before it.
  EXPECT_NE(after.find("text of 0"), std::string::npos) << after;
  EXPECT_EQ(server_.finished()[0].lease().epoch(), 1);
}

TEST_F(AgentTest, GoesOnFromCommittedStepsWithBlobsFetchedByRpc) {
  StartAgent();
  v1::Assignment assignment =
      StubAssignment("step:load;step:block;inputs;done");
  for (const char* role : {"weights", "activations"}) {
    const std::string text = absl::StrCat("old ", role);
    server_.AddBlob(base::Sha256Hex(text), text);
  }
  for (int i = 0; i < 2; ++i) {
    v1::Step& step = *assignment.add_committed();
    step.set_step(i);
    (*step.mutable_blobs())["weights"].set_sha256(
        base::Sha256Hex("old weights"));
  }
  // Only the newest activations are needed: the older ones may be gone.
  (*assignment.mutable_committed(0)->mutable_blobs())["activations"].set_sha256(
      base::Sha256Hex("collected long ago"));
  (*assignment.mutable_committed(1)->mutable_blobs())["activations"].set_sha256(
      base::Sha256Hex("old activations"));
  server_.Assign(assignment);
  ASSERT_TRUE(AwaitFinished());
  ASSERT_FALSE(server_.finished()[0].has_failure());
  ASSERT_EQ(server_.committed().size(), 1u);
  EXPECT_EQ(server_.committed()[0].step(), 2);
  const std::string inputs =
      server_.blobs().at(server_.committed()[0].blobs().at("weights").sha256());
  EXPECT_NE(inputs.find("old weights"), std::string::npos);
  EXPECT_NE(inputs.find("old activations"), std::string::npos);
}

TEST_F(AgentTest, TheSourceArtifactIsLaidOutUnderItsNames) {
  StartAgent();
  v1::Assignment assignment = StubAssignment("inputs;done");
  server_.AddBlob(base::Sha256Hex("config text"), "config text");
  v1::ArtifactFile& file = *assignment.mutable_source_artifact()->add_files();
  file.set_path("sub/config.json");
  file.mutable_blob()->set_sha256(base::Sha256Hex("config text"));
  server_.Assign(assignment);
  ASSERT_TRUE(AwaitFinished());
  const std::string inputs =
      server_.blobs().at(server_.committed()[0].blobs().at("weights").sha256());
  EXPECT_NE(inputs.find("file sub/config.json config text"), std::string::npos);
}

TEST_F(AgentTest, AnArtifactNameThatLeavesItsFolderIsRefused) {
  StartAgent();
  v1::Assignment assignment = StubAssignment("done");
  server_.AddBlob(base::Sha256Hex("x"), "x");
  v1::ArtifactFile& file = *assignment.mutable_source_artifact()->add_files();
  file.set_path("../../escape");
  file.mutable_blob()->set_sha256(base::Sha256Hex("x"));
  server_.Assign(assignment);
  EXPECT_EQ(AwaitFailure().reason(), "ARTIFACT_PATH_INVALID");
}

TEST_F(AgentTest, ADamagedBlobFromTheServerIsRefused) {
  StartAgent();
  v1::Assignment assignment = StubAssignment("step:load;done");
  server_.AddBlob(base::Sha256Hex("right"), "wrong");
  (*assignment.add_committed()->mutable_blobs())["weights"].set_sha256(
      base::Sha256Hex("right"));
  server_.Assign(assignment);
  const v1::Failure failure = AwaitFailure();
  EXPECT_EQ(failure.reason(), "BLOB_DIGEST_MISMATCH");
  EXPECT_EQ(failure.failure_class(), "INTERNAL");
}

TEST_F(AgentTest, ADamagedBlobInTheSharedDirectoryIsRefused) {
  options_.blobs = directory_.File("blobs");
  auto blobs = base::BlobDirectory::Open(options_.blobs);
  ASSERT_TRUE(blobs.ok());
  ASSERT_TRUE((*blobs)->AddBytes("right").ok());
  const std::string path = *(*blobs)->PathOf(base::Sha256Hex("right"));
  std::filesystem::permissions(path, std::filesystem::perms::owner_write,
                               std::filesystem::perm_options::add);
  std::ofstream(path) << "wrong";
  StartAgent();
  v1::Assignment assignment = StubAssignment("step:load;done");
  (*assignment.add_committed()->mutable_blobs())["weights"].set_sha256(
      base::Sha256Hex("right"));
  server_.Assign(assignment);
  EXPECT_EQ(AwaitFailure().reason(), "BLOB_DIGEST_MISMATCH");
}

TEST_F(AgentTest, ACommitIsRepeatedUntilTheServerTakesIt) {
  server_.Fail("CommitStep", 3, absl::UnavailableError("away"));
  server_.Fail("WriteBlob", 2, absl::UnavailableError("away"));
  server_.Fail("Finish", 2, absl::UnavailableError("away"));
  Run("step:load;step:block;done");
  ASSERT_TRUE(AwaitFinished());
  EXPECT_EQ(server_.committed().size(), 2u);
  EXPECT_EQ(server_.calls("CommitStep"), 5);
}

TEST_F(AgentTest, AServerThatRestartsFindsTheWorkGoingOn) {
  const std::string gate = directory_.File("gate");
  Run(absl::StrCat("step:load;gate:", gate, ";step:block;inputs;done"));
  ASSERT_TRUE(server_.Await([&] { return server_.committed().size() == 1; }));
  server_.StopServing();
  std::ofstream(gate) << "";
  server_.ServeAgain(/*same_boot=*/false);
  ASSERT_TRUE(AwaitFinished());
  EXPECT_FALSE(server_.finished()[0].has_failure());
  EXPECT_EQ(server_.committed().size(), 3u);
  // Registered again under the same incarnation.
  ASSERT_TRUE(server_.Await([&] { return server_.registered().size() == 2; }));
  EXPECT_EQ(server_.registered()[0].incarnation(),
            server_.registered()[1].incarnation());
}

TEST_F(AgentTest, AnotherRefusalOfACommitEndsTheAttempt) {
  server_.Fail("CommitStep", 1,
               base::MakeError(absl::StatusCode::kResourceExhausted,
                               "NO_MORE_STEPS", "no room"));
  Run("step:load;hang");
  const v1::Failure failure = AwaitFailure();
  EXPECT_EQ(failure.failure_class(), "RESOURCE");
  EXPECT_EQ(failure.reason(), "NO_MORE_STEPS");
}

TEST_F(AgentTest, AFullDiskOfTheServerIsWaitedOut) {
  const absl::Status full = base::MakeError(
      absl::StatusCode::kResourceExhausted, "DISK_FULL", "no room");
  server_.Fail("WriteBlob", 1, full);
  server_.Fail("CommitStep", 2, full);
  server_.Fail("Finish", 2, full);
  Run("step:load;done");
  ASSERT_TRUE(AwaitFinished());
  EXPECT_FALSE(server_.finished()[0].has_failure());
  EXPECT_EQ(server_.calls("CommitStep"), 3);
  EXPECT_EQ(server_.calls("Finish"), 3);
}

absl::Status BlobMissing() {
  return base::MakeError(absl::StatusCode::kFailedPrecondition, "BLOB_MISSING",
                         "write it first");
}

TEST_F(AgentTest, ABlobThatTheStoreLostBeforeTheCommitIsWrittenAgain) {
  server_.Fail("CommitStep", 1, BlobMissing());
  Run("step:load;step:block;hang");
  ASSERT_TRUE(server_.Await([&] { return server_.committed().size() == 2; }));
  EXPECT_EQ(server_.calls("WriteBlob"), 3);
  EXPECT_EQ(server_.calls("CommitStep"), 3);
}

TEST_F(AgentTest, ABlobThatStaysLostEndsTheAttemptAsTransient) {
  server_.Fail("CommitStep", 2, BlobMissing());
  Run("step:load;hang");
  const v1::Failure failure = AwaitFailure();
  EXPECT_EQ(failure.failure_class(), "TRANSIENT");
  EXPECT_EQ(failure.reason(), "BLOB_MISSING");
  EXPECT_TRUE(server_.committed().empty());
}

TEST_F(AgentTest, AnArtifactWhoseBlobTheStoreLostIsPublishedAgain) {
  server_.Fail("Finish", 1, BlobMissing());
  Run("step:load;done");
  ASSERT_TRUE(AwaitFinished());
  EXPECT_FALSE(server_.finished()[0].has_failure());
  EXPECT_EQ(server_.finished()[0].artifacts_size(), 1);
  EXPECT_EQ(server_.calls("Finish"), 2);
}

TEST_F(AgentTest, AnArtifactThatStaysLostEndsTheAttemptAsTransient) {
  server_.Fail("Finish", 2, BlobMissing());
  Run("step:load;done");
  const v1::Failure failure = AwaitFailure();
  EXPECT_EQ(failure.failure_class(), "TRANSIENT");
  EXPECT_EQ(failure.reason(), "BLOB_MISSING");
}

TEST_F(AgentTest, ARunnerIsToldToKeepLessInMemory) {
  StartAgent();
  v1::Assignment assignment = StubAssignment("inputs;done");
  assignment.set_memory_reduction(1);
  server_.Assign(assignment);
  ASSERT_TRUE(AwaitFinished());
  ASSERT_EQ(server_.committed().size(), 1u);
  const std::string sha256 =
      server_.committed()[0].blobs().at("weights").sha256();
  EXPECT_THAT(server_.blobs()[sha256],
              testing::HasSubstr("memory_reduction 1"));
}

TEST_F(AgentTest, TheFailureOfTheRunnerIsTheFailureOfTheAttempt) {
  Run("step:load;fail:NUMERIC:NUMERIC_NOT_FINITE");
  const v1::Failure failure = AwaitFailure();
  EXPECT_EQ(failure.failure_class(), "NUMERIC");
  EXPECT_EQ(failure.reason(), "NUMERIC_NOT_FINITE");
  EXPECT_EQ(server_.committed().size(), 1u);
}

TEST_F(AgentTest, WhatTheRunnerPrintsReachesTheServerAndTheFailure) {
  Run("log:first line;log:second line;exit:3");
  ASSERT_TRUE(AwaitFinished());
  EXPECT_EQ(server_.finished()[0].log_tail(), "first line\nsecond line");
  EXPECT_EQ(server_.log(), "first line\nsecond line\n");
}

TEST_F(AgentTest, OneJobFollowsTheOther) {
  Run("step:load;done");
  ASSERT_TRUE(AwaitFinished());
  server_.Assign(StubAssignment("step:load;done", /*epoch=*/2));
  ASSERT_TRUE(server_.Await([&] { return server_.finished().size() == 2; }));
  EXPECT_EQ(server_.finished()[1].lease().epoch(), 2);
}

TEST_F(AgentTest, AWorkFolderIsGoneWithItsWork) {
  Run("step:load;done");
  ASSERT_TRUE(AwaitFinished());
  agent_->Drain();
  JoinAgent();
  const std::filesystem::path work = directory_.File("state/work");
  EXPECT_TRUE(!std::filesystem::exists(work) ||
              std::filesystem::is_empty(work));
}

TEST_F(AgentTest, ASecondAgentOfTheSameStateDirectoryIsRefused) {
  StartAgent();
  const auto second = Agent::Create(options_, base::Clock::Real());
  EXPECT_EQ(base::ErrorReason(second.status()), "STATE_DIR_IN_USE");
}

TEST_F(AgentTest, EveryStartIsAnotherIncarnationAndClearsOldWork) {
  StartAgent();
  const std::string first = agent_->incarnation();
  StopAgent();
  const std::string left = directory_.File("state/work/7/files");
  std::filesystem::create_directories(left);
  StartAgent();
  EXPECT_NE(agent_->incarnation(), first);
  EXPECT_FALSE(std::filesystem::exists(left));
}

TEST_F(AgentTest, ARunnerThatCannotDescribeItselfStopsTheStart) {
  options_.runner = "/bin/false";
  EXPECT_EQ(
      base::ErrorReason(Agent::Create(options_, base::Clock::Real()).status()),
      "RUNNER_DESCRIBE_FAILED");
  options_.runner = directory_.File("missing");
  const absl::Status status =
      Agent::Create(options_, base::Clock::Real()).status();
  EXPECT_EQ(base::ErrorReason(status), "RUNNER_START_FAILED");
  EXPECT_EQ(status.message().find(directory_.path()), std::string::npos);
}

}  // namespace
}  // namespace quantd::agent
