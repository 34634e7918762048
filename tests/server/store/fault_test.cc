// SPDX-License-Identifier: Apache-2.0
// What a failing disk does to the store: typed refusals, nothing acknowledged
// lost, reads that go on, recovery without a restart.
#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "proto/base/error.h"
#include "tests/server/store/fault_vfs.h"
#include "tests/server/store/store_fixture.h"
#include "tests/support/process.h"

namespace quantd::store {
namespace {

constexpr int kEio = SQLITE_IOERR_WRITE;

class FaultTest : public StoreTest {
 protected:
  void TearDown() override { store_.reset(); }

  bool AwaitReady() {
    return support::WaitFor(absl::Seconds(30),
                            [this] { return store_->Stats().ready; });
  }

  // Outlives the store.
  FaultVfs disk_;
};

// In each round one more write of the disk goes well before three fail: every
// write of a commit, its sync and the checkpoints are met.
TEST_F(FaultTest, AFailureAtAnyWriteLosesNothingAcknowledged) {
  std::set<std::string> acknowledged;
  std::map<std::string, int> reasons;
  for (int round = 1; round <= 60; ++round) {
    disk_.FailWrites(round, 3, round % 2 == 0 ? SQLITE_FULL : kEio);
    for (int i = 0; i < 4; ++i) {
      const std::string id = absl::StrCat("job-", round, "-", i);
      const absl::Status status = store_->SubmitJob(MakeJob(id)).status();
      if (status.ok()) {
        acknowledged.insert(id);
      } else {
        ++reasons[base::ErrorReason(status)];
      }
      // Reads never depend on the disk taking writes.
      EXPECT_TRUE(store_->CountJobs().ok());
    }
    disk_.Heal();
    const std::string id = absl::StrCat("job-", round, "-after");
    ASSERT_TRUE(store_->SubmitJob(MakeJob(id)).ok()) << round;
    acknowledged.insert(id);
    EXPECT_TRUE(store_->Stats().ready);
    // As a start finds it, once without and once with the log cut back.
    if (round % 10 == 0) Reopen();
    for (const std::string& known : acknowledged) {
      ASSERT_TRUE(store_->GetJob(known).ok()) << known << " in " << round;
    }
  }
  EXPECT_GT(disk_.failed(), 60);
  // The two kinds of failure are told apart, and there are no others.
  EXPECT_EQ(reasons.size(), 2u);
  EXPECT_GT(reasons["DISK_FULL"], 0);
  EXPECT_GT(reasons["STORE_UNAVAILABLE"], 0);
  for (const std::string& id : acknowledged) ExpectDenseHistory(id);
}

TEST_F(FaultTest, EveryCallerOfAFailedBatchGetsTheErrorAndNobodyWaits) {
  disk_.FailWrites(1, int64_t{1} << 40, kEio);
  std::vector<std::thread> threads;
  std::mutex mu;
  std::vector<absl::Status> answers;
  for (int t = 0; t < 16; ++t) {
    threads.emplace_back([&, t] {
      const absl::Status status =
          store_->SubmitJob(MakeJob(absl::StrCat("job-", t))).status();
      const std::lock_guard<std::mutex> lock(mu);
      answers.push_back(status);
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_EQ(answers.size(), 16u);
  for (const absl::Status& status : answers) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_EQ(base::ErrorReason(status), "STORE_UNAVAILABLE");
  }
  EXPECT_FALSE(store_->Stats().ready);
  EXPECT_TRUE((*store_->CountJobs()).empty());
  disk_.Heal();
  EXPECT_TRUE(AwaitReady());
  // Not one of them came to be after all.
  EXPECT_TRUE((*store_->CountJobs()).empty());
  EXPECT_TRUE(store_->SubmitJob(MakeJob("job-0")).ok());
}

TEST_F(FaultTest, NoEventOfALostCommitIsAnnounced) {
  std::vector<v1::Event> announced;
  store_->SetEventSink([&](const std::vector<v1::Event>& events) {
    announced.insert(announced.end(), events.begin(), events.end());
  });
  disk_.FailWrites(1, 2, SQLITE_FULL);
  EXPECT_FALSE(store_->SubmitJob(MakeJob("job-a")).ok());
  disk_.Heal();
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-b")).ok());
  ASSERT_EQ(announced.size(), 1u);
  EXPECT_EQ(announced[0].job_id(), "job-b");
  EXPECT_EQ(announced[0].seq(), 1);
  store_->SetEventSink(nullptr);
}

// A worker repeats what was not acknowledged; that must end as one commit does.
TEST_F(FaultTest, AStepAndAnEndThatWereRefusedAreTakenWhenTheyComeAgain) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  const LeaseKey lease = Grant("job-a");
  for (int64_t nth = 1; nth <= 6; ++nth) {
    const v1::Step step = MakeStep(nth - 1);
    disk_.FailWrites(nth, 1, kEio);
    absl::Status status = store_->CommitStep(lease, step, TestTime());
    disk_.Heal();
    while (!status.ok()) {
      status = store_->CommitStep(lease, step, TestTime());
    }
  }
  EXPECT_EQ(store_->CommittedSteps("job-a")->size(), 6u);
  disk_.FailWrites(1, 1, SQLITE_FULL);
  EXPECT_FALSE(
      store_->FinishAttempt(Finished(lease), Always(v1::JOB_STATE_SUCCEEDED))
          .ok());
  disk_.Heal();
  ASSERT_TRUE(
      store_->FinishAttempt(Finished(lease), Always(v1::JOB_STATE_SUCCEEDED))
          .ok());
  EXPECT_EQ(StateOf("job-a"), v1::JOB_STATE_SUCCEEDED);
  ExpectDenseHistory("job-a");
}

TEST_F(FaultTest, AStoreThatCannotBeOpenedSaysSoAndOpensLater) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  store_.reset();
  SqliteStore::Options options;
  options.data_dir = dir_.File("fresh");
  disk_.FailWrites(1, 1, SQLITE_FULL);
  EXPECT_EQ(base::ErrorReason(SqliteStore::Open(options).status()),
            "DISK_FULL");
  disk_.Heal();
  EXPECT_TRUE(SqliteStore::Open(options).ok());
}

}  // namespace
}  // namespace quantd::store
