// SPDX-License-Identifier: Apache-2.0
// How work ends before it is done: deaths of the runner, cancels, lost leases,
// drains.
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "proto/base/error.h"
#include "tests/worker/agent/agent_fixture.h"

namespace quantd::agent {
namespace {

using DeathTest = AgentFixture;

TEST_F(DeathTest, ASignalIsALostRunnerNamedByIt) {
  Run("step:load;signal:11");
  const v1::Failure failure = AwaitFailure();
  EXPECT_EQ(failure.failure_class(), "LOST");
  EXPECT_EQ(failure.reason(), "RUNNER_CRASHED");
  EXPECT_EQ(failure.metadata().at("exit"), "SIGSEGV");
  // What it had finished is kept.
  EXPECT_EQ(server_.committed().size(), 1u);
}

TEST_F(DeathTest, AnExitWithoutAResultIsALostRunner) {
  for (const char* script : {"exit:3", "exit:0"}) {
    if (agent_ == nullptr) StartAgent();
    const size_t before = server_.finished().size();
    server_.Assign(StubAssignment(script, static_cast<int64_t>(before) + 1));
    ASSERT_TRUE(
        server_.Await([&] { return server_.finished().size() > before; }));
    EXPECT_EQ(server_.finished()[before].failure().reason(), "RUNNER_CRASHED");
  }
}

TEST_F(DeathTest, AKillWithoutEvidenceIsNotTakenForMemory) {
  Run("signal:9");
  const v1::Failure failure = AwaitFailure();
  EXPECT_EQ(failure.reason(), "RUNNER_CRASHED");
  EXPECT_EQ(failure.metadata().at("exit"), "SIGKILL");
}

TEST_F(DeathTest, ASilentRunnerIsKilledAsHung) {
  options_.session.stall_timeout = absl::Seconds(1);
  Run("inputs;log:last words;hang");
  const pid_t pid = AwaitRunnerPid();
  const v1::Failure failure = AwaitFailure();
  EXPECT_EQ(failure.failure_class(), "TRANSIENT");
  EXPECT_EQ(failure.reason(), "RUNNER_HUNG");
  EXPECT_EQ(server_.finished()[0].log_tail(), "last words");
  EXPECT_FALSE(IsAlive(pid));
}

TEST_F(DeathTest, ProgressKeepsARunnerAlive) {
  options_.session.stall_timeout = absl::Seconds(2);
  const std::string gate = directory_.File("gate");
  // Every message is younger than the limit, all together are older.
  std::string script;
  for (int i = 0; i < 4; ++i) {
    absl::StrAppend(&script, "progress:", i, ";gate:", gate, i, ";");
  }
  Run(script + "done");
  const absl::Time begin = absl::Now();
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(server_.Await([&] {
      return absl::Now() - begin > absl::Milliseconds(800 * (i + 1));
    }));
    std::ofstream(absl::StrCat(gate, i)) << "";
  }
  ASSERT_TRUE(AwaitFinished());
  EXPECT_FALSE(server_.finished()[0].has_failure());
}

TEST_F(DeathTest, FramesThatAreNoEventsEndTheAttempt) {
  Run("garbage");
  v1::Failure failure = AwaitFailure();
  EXPECT_EQ(failure.reason(), "RUNNER_PROTOCOL_BROKEN");
  EXPECT_EQ(failure.failure_class(), "INTERNAL");
  server_.Assign(StubAssignment("oversize", 2));
  ASSERT_TRUE(server_.Await([&] { return server_.finished().size() == 2; }));
  failure = server_.finished()[1].failure();
  EXPECT_EQ(failure.reason(), "FRAME_TOO_LARGE");
  EXPECT_EQ(failure.failure_class(), "INTERNAL");
}

TEST_F(DeathTest, ProcessesThatTheRunnerStartedDieWithIt) {
  Run("child;step:load;signal:11");
  ASSERT_TRUE(AwaitFinished());
  const pid_t child = NumberAfter(server_.log(), "child ");
  ASSERT_GT(child, 0);
  EXPECT_TRUE(server_.Await([&] { return IsDead(child); }));
}

using CancelTest = AgentFixture;

TEST_F(CancelTest, ARunnerThatListensIsReapedBeforeStoppedIsSaid) {
  Run("inputs;hang");
  const pid_t pid = AwaitRunnerPid();
  server_.CancelLease();
  ASSERT_TRUE(server_.Await([&] { return SaidStopped(); }));
  EXPECT_FALSE(IsAlive(pid));
  EXPECT_TRUE(server_.finished().empty());
  // Once the server has let go, nothing is held.
  EXPECT_TRUE(server_.Await([&] { return LastBeat().held_size() == 0; }));
}

TEST_F(CancelTest, ADeafRunnerIsKilledAfterTheGrace) {
  options_.session.cancel_grace = absl::Milliseconds(300);
  options_.session.kill_grace = absl::Milliseconds(300);
  Run("inputs;deaf");
  const pid_t pid = AwaitRunnerPid();
  server_.CancelLease();
  ASSERT_TRUE(server_.Await([&] { return SaidStopped(); }));
  EXPECT_FALSE(IsAlive(pid));
}

TEST_F(CancelTest, ALeaseThatIsNotHeldIsStoppedAlready) {
  server_.Assign(StubAssignment("hang"));
  server_.CancelLease();
  StartAgent();
  EXPECT_TRUE(server_.Await([&] { return SaidStopped(); }));
}

TEST_F(CancelTest, CancellingWhileTheServerRefusesCommitsDoesNotWaitForThem) {
  server_.Fail("CommitStep", 1000000, absl::UnavailableError("away"));
  Run("inputs;step:a;step:b;step:c;step:d;step:e;step:f;step:g;hang");
  const pid_t pid = AwaitRunnerPid();
  ASSERT_TRUE(server_.Await([&] { return server_.calls("CommitStep") > 1; }));
  server_.CancelLease();
  EXPECT_TRUE(server_.Await([&] { return SaidStopped(); }));
  EXPECT_FALSE(IsAlive(pid));
}

using LeaseTest = AgentFixture;

TEST_F(LeaseTest, AWriteWithALostLeaseKillsTheRunnerAndSaysNothing) {
  const std::string gate = directory_.File("gate");
  Run(absl::StrCat("inputs;gate:", gate, ";step:load;hang"));
  const pid_t pid = AwaitRunnerPid();
  server_.Fail("CommitStep", 1,
               base::MakeError(absl::StatusCode::kFailedPrecondition,
                               "LEASE_LOST", "not yours"));
  // Keep the level from doing what the write should do.
  server_.Fail("Synchronize", 1000000, absl::UnavailableError("away"));
  std::ofstream(gate) << "";
  EXPECT_TRUE(server_.Await([&] { return !IsAlive(pid); }));
  EXPECT_TRUE(server_.finished().empty());
}

TEST_F(LeaseTest, WorkThatIsNotDesiredAnyMoreIsDropped) {
  Run("inputs;hang");
  const pid_t pid = AwaitRunnerPid();
  server_.RevokeLease();
  EXPECT_TRUE(server_.Await([&] { return !IsAlive(pid); }));
  EXPECT_TRUE(server_.Await([&] { return LastBeat().held_size() == 0; }));
  EXPECT_TRUE(server_.finished().empty());
}

class ShortLeaseTest : public AgentFixture {
 protected:
  ShortLeaseTest() : AgentFixture(absl::Seconds(3)) {}
};

TEST_F(ShortLeaseTest, WithoutAnAnswerTheWorkIsGivenUpBeforeTheLeaseEnds) {
  Run("inputs;hang");
  const pid_t pid = AwaitRunnerPid();
  server_.StopServing();
  const absl::Time silent_since = absl::Now();
  EXPECT_TRUE(server_.Await([&] { return !IsAlive(pid); }));
  // Only a lower bound: a loaded machine may take its time.
  EXPECT_GE(absl::Now() - silent_since, absl::Seconds(1));
  server_.RevokeLease();
  server_.ServeAgain(/*same_boot=*/true);
  const size_t beats = server_.synchronized().size();
  // A beat from before may have waited for the connection.
  EXPECT_TRUE(server_.Await([&] {
    return server_.synchronized().size() > beats && LastBeat().held_size() == 0;
  }));
  EXPECT_TRUE(server_.finished().empty());
}

TEST_F(ShortLeaseTest, AWorkerThatWasFencedWorksAgain) {
  Run("inputs;hang");
  const pid_t pid = AwaitRunnerPid();
  server_.StopServing();
  ASSERT_TRUE(server_.Await([&] { return !IsAlive(pid); }));
  server_.Assign(StubAssignment("step:load;done", 2));
  server_.ServeAgain(/*same_boot=*/false);
  ASSERT_TRUE(AwaitFinished());
  EXPECT_EQ(server_.finished()[0].lease().epoch(), 2);
  EXPECT_FALSE(server_.finished()[0].has_failure());
}

using DrainTest = AgentFixture;

TEST_F(DrainTest, TheCurrentStepEndsAndTheJobGoesBack) {
  const std::string gate = directory_.File("gate");
  Run(absl::StrCat("inputs;gate:", gate, ";step:block;hang"));
  ASSERT_TRUE(server_.Await([&] { return server_.committed().size() == 1; }));
  agent_->Drain();
  ASSERT_TRUE(server_.Await([&] {
    return LastBeat().held_size() == 1 && !LastBeat().accepts_work();
  }));
  EXPECT_TRUE(server_.finished().empty());
  std::ofstream(gate) << "";
  JoinAgent();
  EXPECT_EQ(server_.committed().size(), 2u);
  ASSERT_EQ(server_.finished().size(), 1u);
  EXPECT_EQ(server_.finished()[0].failure().failure_class(), "DRAINED");
  EXPECT_EQ(server_.finished()[0].failure().reason(), "WORKER_DRAINED");
}

TEST_F(DrainTest, AStepThatTakesTooLongIsLeftBehind) {
  options_.session.drain_timeout = absl::Milliseconds(300);
  options_.session.cancel_grace = absl::Milliseconds(300);
  options_.session.kill_grace = absl::Milliseconds(300);
  Run("inputs;deaf");
  const pid_t pid = AwaitRunnerPid();
  ASSERT_TRUE(server_.Await([&] { return server_.committed().size() == 1; }));
  agent_->Drain();
  JoinAgent();
  EXPECT_FALSE(IsAlive(pid));
  ASSERT_EQ(server_.finished().size(), 1u);
  EXPECT_EQ(server_.finished()[0].failure().failure_class(), "DRAINED");
}

TEST_F(DrainTest, AJobThatEndsMeanwhileHasEnded) {
  const std::string gate = directory_.File("gate");
  Run(absl::StrCat("inputs;gate:", gate, ";done"));
  ASSERT_TRUE(server_.Await([&] { return server_.committed().size() == 1; }));
  agent_->Drain();
  std::ofstream(gate) << "";
  JoinAgent();
  ASSERT_EQ(server_.finished().size(), 1u);
  EXPECT_FALSE(server_.finished()[0].has_failure());
}

TEST_F(DrainTest, AnIdleWorkerLeavesAtOnce) {
  StartAgent();
  ASSERT_TRUE(server_.Await([&] { return !server_.synchronized().empty(); }));
  agent_->Drain();
  JoinAgent();
  EXPECT_TRUE(server_.finished().empty());
}

TEST_F(DrainTest, TheSecondRequestKillsWithoutWaiting) {
  Run("inputs;deaf");
  const pid_t pid = AwaitRunnerPid();
  agent_->Drain();
  agent_->Drain();
  JoinAgent();
  EXPECT_FALSE(IsAlive(pid));
  EXPECT_TRUE(server_.finished().empty());
}

}  // namespace
}  // namespace quantd::agent
