// SPDX-License-Identifier: Apache-2.0
#include "server/scheduler/scheduler.h"

#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/base/error.h"
#include "tests/server/scheduler/core_fixture.h"

namespace quantd::scheduler {
namespace {

using ::testing::HasSubstr;

TEST_F(CoreTest, AnIdleWorkerGetsTheJobInItsNextExchange) {
  const std::string id = Submit();
  Register("w", "i1");
  const v1::SynchronizeResponse response = Synchronize(Idle("w", "i1"));
  ASSERT_EQ(response.desired_size(), 1);
  EXPECT_TRUE(response.registered());
  EXPECT_EQ(response.desired(0).lease().job_id(), id);
  EXPECT_EQ(response.desired(0).attempt(), 1);
  EXPECT_EQ(response.desired(0).spec().quantize().model(), "tiny");
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_LEASED);
  Synchronize(Holding("w", response.desired(0).lease()));
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Get(id).worker_name(), "w");
}

TEST_F(CoreTest, ALostAnswerIsGivenAgain) {
  const std::string id = Submit();
  Register("w", "i1");
  const auto first = Synchronize(Idle("w", "i1"));
  const auto second = Synchronize(Idle("w", "i1"));
  ASSERT_EQ(second.desired_size(), 1);
  EXPECT_EQ(second.desired(0).lease().epoch(),
            first.desired(0).lease().epoch());
}

TEST_F(CoreTest, AWorkerHoldsOneJobAtATime) {
  Submit();
  Submit();
  const v1::Lease lease = Take("w", "i1");
  v1::SynchronizeRequest request = Holding("w", lease);
  EXPECT_EQ(Synchronize(request).desired_size(), 1);
}

TEST_F(CoreTest, EachJobGoesToOneWorkerHoweverManyAskAtOnce) {
  for (int i = 0; i < 4; ++i) Submit();
  std::vector<std::thread> threads;
  std::vector<std::string> got(8);
  for (int t = 0; t < 8; ++t) Register(absl::StrCat("w", t), "i1");
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([this, t, &got] {
      const auto response = Synchronize(Idle(absl::StrCat("w", t), "i1"));
      if (response.desired_size() == 1) {
        got[t] = response.desired(0).lease().job_id();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<std::string> jobs(got.begin(), got.end());
  jobs.erase("");
  EXPECT_EQ(jobs.size(), 4);
  EXPECT_EQ(std::count(got.begin(), got.end(), ""), 4);
}

TEST_F(CoreTest, ALeaseThatIsNotRenewedIsLostAndTheJobGoesOnElsewhere) {
  const std::string id = Submit();
  const v1::Lease old_lease = Take("w", "i1");
  ASSERT_TRUE(Commit(old_lease, 0).ok());
  Advance(kTtl - absl::Seconds(1));
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_RUNNING);
  Advance(absl::Seconds(1));
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_QUEUED);
  Register("v", "i2");
  const auto response = Synchronize(Idle("v", "i2"));
  ASSERT_EQ(response.desired_size(), 1);
  EXPECT_EQ(response.desired(0).committed_size(), 1);
  EXPECT_EQ(response.desired(0).attempt(), 2);
  // The old worker comes back from a long sleep: it may change nothing.
  EXPECT_EQ(Synchronize(Holding("w", old_lease)).desired_size(), 0);
  EXPECT_EQ(base::ErrorReason(Commit(old_lease, 1)), "LEASE_LOST");
  EXPECT_EQ(base::ErrorReason(Fail(old_lease, "INVALID").status()),
            "LEASE_LOST");
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_LEASED);
}

TEST_F(CoreTest, RenewalsKeepALeaseForEver) {
  const std::string id = Submit();
  const v1::Lease lease = Take("w", "i1");
  for (int i = 0; i < 50; ++i) {
    Advance(kTtl - absl::Seconds(1));
    EXPECT_EQ(Synchronize(Holding("w", lease)).desired_size(), 1);
  }
  EXPECT_EQ(Get(id).epoch(), lease.epoch());
}

TEST_F(CoreTest, StepsOfTheWallClockChangeNoLease) {
  const std::string id = Submit();
  const v1::Lease lease = Take("w", "i1");
  for (const absl::Duration jump : {absl::Hours(1), -absl::Hours(2)}) {
    clock_.JumpWall(jump);
    core_->scheduler().Tick();
    EXPECT_EQ(Get(id).epoch(), lease.epoch());
    EXPECT_EQ(Get(id).state(), v1::JOB_STATE_RUNNING);
  }
}

TEST_F(CoreTest, ARestartedServerGivesLiveLeasesOneFullTtl) {
  const std::string id = Submit();
  const v1::Lease lease = Take("w", "i1");
  Advance(kTtl - absl::Seconds(1));
  Restart();
  Advance(kTtl - absl::Seconds(1));
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_RUNNING);
  // The agent is told to register again, and goes on with its lease.
  v1::SynchronizeRequest request = Holding("w", lease);
  request.set_boot_id("the last one");
  EXPECT_FALSE(Synchronize(request).registered());
  Register("w", "i1");
  EXPECT_EQ(Synchronize(Holding("w", lease)).desired_size(), 1);
  Advance(kTtl - absl::Seconds(1));
  EXPECT_EQ(Get(id).epoch(), lease.epoch());
  Advance(absl::Seconds(1));
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_QUEUED);
}

TEST_F(CoreTest, ANewIncarnationLosesTheLeasesOfTheOldOneAtOnce) {
  const std::string id = Submit();
  const v1::Lease lease = Take("w", "i1");
  Register("w", "i2");
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(base::ErrorReason(Commit(lease, 0)), "LEASE_LOST");
  EXPECT_FALSE(Synchronize(Holding("w", lease)).registered());
}

TEST_F(CoreTest, TwoLossesWithoutAStepEndThePoisonJob) {
  const std::string id = Submit();
  Take("w", "i1");
  Take("w", "i2");
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_RUNNING);
  Register("w", "i3");
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(Get(id).failure().reason(), "POISON");
  EXPECT_EQ(Get(id).failure().failure_class(), "LOST");
  EXPECT_EQ(Get(id).failure().metadata().at("last_reason"), "WORKER_RESTARTED");
}

TEST_F(CoreTest, ATransientFailureWaitsOnTheMonotonicClock) {
  const std::string id = Submit();
  const v1::Lease lease = Take("w", "i1");
  ASSERT_EQ(Fail(lease, "TRANSIENT")->state(), v1::JOB_STATE_PENDING);
  core_->scheduler().Tick();
  EXPECT_EQ(Get(id).pending_reason(), "BACKOFF");
  clock_.JumpWall(absl::Hours(1));
  core_->scheduler().Tick();
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_PENDING);
  Advance(absl::Seconds(11));
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_PENDING);
  Advance(absl::Seconds(8));
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_QUEUED);
}

TEST_F(CoreTest, AWaitGoesOnAfterARestart) {
  const std::string id = Submit();
  ASSERT_TRUE(Fail(Take("w", "i1"), "TRANSIENT").ok());
  Restart();
  Advance(absl::ZeroDuration());
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_PENDING);
  Advance(absl::Seconds(19));
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_QUEUED);
}

TEST_F(CoreTest, ACancelReachesTheWorkerAndEndsWhenItConfirms) {
  const std::string id = Submit();
  const v1::Lease lease = Take("w", "i1");
  int woken = 0;
  v1::WakeRequest wake;
  wake.set_worker_name("w");
  wake.set_incarnation("i1");
  const auto subscription =
      core_->scheduler().SubscribeWake(wake, [&woken] { ++woken; });
  ASSERT_TRUE(subscription.ok());
  EXPECT_EQ(core_->jobs().Cancel(id)->state(), v1::JOB_STATE_CANCELLING);
  core_->scheduler().Tick();
  EXPECT_EQ(woken, 1);
  v1::SynchronizeRequest request = Holding("w", lease);
  const v1::SynchronizeResponse response = Synchronize(request);
  EXPECT_EQ(response.desired_size(), 0);
  ASSERT_EQ(response.cancel_size(), 1);
  EXPECT_EQ(response.cancel(0).epoch(), lease.epoch());
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_CANCELLING);
  request.mutable_held(0)->set_running(false);
  request.mutable_held(0)->set_stopped(true);
  Synchronize(request);
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_CANCELLED);
  // The same message again is harmless.
  EXPECT_EQ(Synchronize(request).cancel_size(), 0);
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_CANCELLED);
  core_->scheduler().UnsubscribeWake(*subscription);
}

TEST_F(CoreTest, ACancelledJobWhoseWorkerIsGoneEndsWithItsLease) {
  const std::string id = Submit();
  Take("w", "i1");
  ASSERT_TRUE(core_->jobs().Cancel(id).ok());
  Advance(kTtl);
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(CoreTest, ACancelBeforeTheWorkerHeardOfTheJobEndsAtOnce) {
  const std::string id = Submit();
  Register("w", "i1");
  ASSERT_EQ(Synchronize(Idle("w", "i1")).desired_size(), 1);
  ASSERT_TRUE(core_->jobs().Cancel(id).ok());
  const auto response = Synchronize(Idle("w", "i1"));
  EXPECT_EQ(response.desired_size() + response.cancel_size(), 0);
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(CoreTest, ADrainedWorkerReleasesItsJobAndGetsNoOther) {
  const std::string id = Submit();
  const v1::Lease lease = Take("w", "i1");
  v1::SynchronizeRequest request = Holding("w", lease);
  request.set_accepts_work(false);
  request.mutable_held(0)->set_stopped(true);
  EXPECT_EQ(Synchronize(request).desired_size(), 0);
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(Get(id).attempt(), 0);
  EXPECT_EQ(Get(id).epoch(), 1);
}

TEST_F(CoreTest, AnIdleWorkerIsWokenByASubmit) {
  Register("w", "i1");
  Synchronize(Idle("w", "i1"));
  int woken = 0;
  v1::WakeRequest wake;
  wake.set_worker_name("w");
  wake.set_incarnation("i1");
  ASSERT_TRUE(
      core_->scheduler().SubscribeWake(wake, [&woken] { ++woken; }).ok());
  core_->scheduler().Tick();
  EXPECT_EQ(woken, 0);
  Submit("hqq");
  core_->scheduler().Tick();
  EXPECT_EQ(woken, 0);
  Submit("gptq");
  core_->scheduler().Tick();
  EXPECT_EQ(woken, 1);
  wake.set_incarnation("i0");
  EXPECT_EQ(
      base::ErrorReason(core_->scheduler().SubscribeWake(wake, [] {}).status()),
      "WORKER_NOT_REGISTERED");
}

TEST_F(CoreTest, TheLoopThreadWakesWithinTheInterval) {
  Register("w", "i1");
  Synchronize(Idle("w", "i1"));
  absl::Mutex mu;
  bool woken = false;
  v1::WakeRequest wake;
  wake.set_worker_name("w");
  wake.set_incarnation("i1");
  ASSERT_TRUE(core_->scheduler()
                  .SubscribeWake(wake,
                                 [&] {
                                   absl::MutexLock lock(&mu);
                                   woken = true;
                                 })
                  .ok());
  core_->scheduler().Start();
  Submit();
  absl::MutexLock lock(&mu);
  EXPECT_TRUE(mu.AwaitWithTimeout(absl::Condition(&woken), absl::Seconds(10)));
}

TEST_F(CoreTest, JobsGoOnlyToWorkersThatHaveTheirComponents) {
  const std::string hqq = Submit("hqq");
  const std::string gptq = Submit("gptq");
  Register("w", "i1", "gptq");
  const auto response = Synchronize(Idle("w", "i1"));
  ASSERT_EQ(response.desired_size(), 1);
  EXPECT_EQ(response.desired(0).lease().job_id(), gptq);
  EXPECT_EQ(Get(hqq).state(), v1::JOB_STATE_QUEUED);
}

TEST_F(CoreTest, ExplainNamesWhatHoldsAJobInOrderOfPrecedence) {
  auto first = [this](const std::string& id) {
    return core_->scheduler().Explain(id)->sentences(0);
  };
  const std::string id = Submit();
  EXPECT_THAT(first(id), HasSubstr("NO_WORKER"));
  Register("w", "i1", "hqq");
  Synchronize(Idle("w", "i1"));
  EXPECT_THAT(first(id), HasSubstr("NO_CAPABLE_WORKER"));
  EXPECT_THAT(first(id), HasSubstr("method gptq"));
  Register("v", "i1");
  EXPECT_THAT(first(id), HasSubstr("WORKERS_DRAINING"));
  Synchronize(Idle("v", "i1"));
  EXPECT_THAT(first(id), HasSubstr("LEASED"));
  const std::string other = Submit();
  const std::string third = Submit();
  EXPECT_THAT(first(third), HasSubstr("WORKERS_BUSY: 1 job is ahead"));
  EXPECT_EQ(core_->scheduler().Explain(third)->jobs_ahead(), 1);
  core_->scheduler().StopGranting();
  EXPECT_THAT(first(other), HasSubstr("SERVER_STOPPING"));
  Advance(kTtl + absl::Seconds(1));
  EXPECT_EQ(core_->scheduler().Explain("zzzz").status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(CoreTest, ExplainSaysWhatWouldHelpAndWaitReasonIsTheSameWord) {
  const std::string id = Submit();
  const auto expect = [&](const std::string& word, const std::string& advice) {
    const auto response = core_->scheduler().Explain(id);
    ASSERT_EQ(response->sentences_size(), 2);
    EXPECT_THAT(response->sentences(0), HasSubstr("QUEUED, " + word + ":"));
    EXPECT_THAT(response->sentences(1), HasSubstr(advice));
    EXPECT_EQ(core_->scheduler().WaitReason(Get(id).spec()), word);
  };
  expect("NO_WORKER", "Start a quant-worker");
  Register("w", "i1", "hqq");
  expect("NO_CAPABLE_WORKER", "whose build has it");
  Register("v", "i1");
  expect("WORKERS_DRAINING", "end the drain");
  // Another job is what v works on, with this one behind it.
  v1::SubmitJobRequest urgent;
  *urgent.mutable_spec() = Get(id).spec();
  urgent.mutable_spec()->set_priority(5);
  ASSERT_TRUE(core_->jobs().Submit(urgent, "urgent").ok());
  ASSERT_EQ(Synchronize(Idle("v", "i1")).desired_size(), 1);
  expect("WORKERS_BUSY", "when a worker is free");
  core_->scheduler().StopGranting();
  expect("SERVER_STOPPING", "server has started again");
}

TEST_F(CoreTest, AJobThatAFreeWorkerIsAboutToTakeSaysSo) {
  Register("w", "i1");
  Synchronize(Idle("w", "i1"));
  const std::string id = Submit();
  const auto response = core_->scheduler().Explain(id);
  EXPECT_THAT(response->sentences(0), HasSubstr("ABOUT_TO_START"));
  EXPECT_THAT(response->sentences(0), HasSubstr("worker w is free"));
  EXPECT_EQ(Synchronize(Idle("w", "i1")).desired_size(), 1);
}

TEST_F(CoreTest, WaitingJobsAreCountedByReasonWithEveryWordThere) {
  const auto count = [this] {
    return core_->scheduler().CountWaiting(
        *core_->store().Waiting(),
        (*core_->store().CountJobs())[v1::JOB_STATE_QUEUED]);
  };
  for (int i = 0; i < 200; ++i) Submit(i % 2 == 0 ? "gptq" : "hqq");
  EXPECT_EQ(count()["NO_WORKER"], 200);
  EXPECT_EQ(count()["BACKOFF"], 0);
  EXPECT_EQ(count().size(), 7u);
  const v1::Lease lease = Take("w", "i1");
  // 64 of the first 128 need another worker; those behind are not looked at.
  EXPECT_EQ(count()["NO_CAPABLE_WORKER"], 64);
  EXPECT_EQ(count()["WORKERS_BUSY"], 199 - 64);
  ASSERT_TRUE(Fail(lease, "TRANSIENT").ok());
  EXPECT_EQ(count()["BACKOFF"], 1);
}

TEST_F(CoreTest, TheOldestQueuedJobIsTheOneSubmittedFirst) {
  EXPECT_FALSE(core_->store().Waiting()->oldest_queued.has_value());
  const absl::Time first = clock_.Now();
  const std::string id = Submit();
  clock_.Advance(absl::Seconds(100));
  Submit();
  EXPECT_EQ(core_->store().Waiting()->oldest_queued, first);
  ASSERT_TRUE(core_->jobs().Cancel(id).ok());
  EXPECT_EQ(core_->store().Waiting()->oldest_queued,
            first + absl::Seconds(100));
}

TEST_F(CoreTest, AJobThatRanOutOfMemoryIsTriedAgainWithLess) {
  const std::string id = Submit();
  v1::Lease lease = Take("w", "i1");
  ASSERT_TRUE(Fail(lease, "RESOURCE").ok());
  ASSERT_EQ(Get(id).state(), v1::JOB_STATE_PENDING);
  core_->scheduler().Tick();
  Advance(absl::Minutes(1));
  Register("w", "i1");
  const auto response = Synchronize(Idle("w", "i1"));
  ASSERT_EQ(response.desired_size(), 1);
  EXPECT_EQ(response.desired(0).memory_reduction(), 1);
  ASSERT_TRUE(Fail(response.desired(0).lease(), "RESOURCE").ok());
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_FAILED);
  // What a person retries begins with everything again.
  ASSERT_TRUE(core_->jobs().Retry(id).ok());
  EXPECT_EQ(Synchronize(Idle("w", "i1")).desired(0).memory_reduction(), 0);
}

TEST_F(CoreTest, WorkersAreListedWithWhatTheyDo) {
  const std::string id = Submit();
  Take("busy", "i1");
  Register("idle", "i1");
  Synchronize(Idle("idle", "i1"));
  Register("draining", "i1");
  auto workers = core_->scheduler().ListWorkers();
  ASSERT_EQ(workers.size(), 3);
  EXPECT_EQ(workers[0].state(), "BUSY");
  EXPECT_EQ(workers[0].job_id(), id);
  EXPECT_EQ(workers[1].state(), "DRAINING");
  EXPECT_EQ(workers[2].state(), "IDLE");
  Advance(kTtl + absl::Seconds(1));
  for (const v1::WorkerStatus& worker : core_->scheduler().ListWorkers()) {
    EXPECT_EQ(worker.state(), "LOST");
  }
}

TEST_F(CoreTest, AServerThatIsStoppingGrantsNothing) {
  Submit();
  Register("w", "i1");
  core_->scheduler().StopGranting();
  EXPECT_EQ(Synchronize(Idle("w", "i1")).desired_size(), 0);
}

}  // namespace
}  // namespace quantd::scheduler
