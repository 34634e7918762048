// SPDX-License-Identifier: Apache-2.0
#include "server/scheduler/retry_policy.h"

#include <string>

#include "gtest/gtest.h"

namespace quantd::scheduler {
namespace {

store::JobRecord Running() {
  store::JobRecord job;
  job.state = v1::JOB_STATE_RUNNING;
  job.attempt = 1;
  job.spec.mutable_quantize()->set_model("m");
  return job;
}

v1::Failure FailureOf(const std::string& failure_class) {
  v1::Failure failure;
  failure.set_failure_class(failure_class);
  failure.set_reason("SOMETHING");
  return failure;
}

TEST(RetryPolicyTest, NoFailureSucceedsEvenWhileCancelling) {
  RetryPolicy policy(1);
  store::JobRecord job = Running();
  EXPECT_EQ(policy.Decide(job, {}).to, v1::JOB_STATE_SUCCEEDED);
  job.state = v1::JOB_STATE_CANCELLING;
  EXPECT_EQ(policy.Decide(job, {}).to, v1::JOB_STATE_SUCCEEDED);
}

TEST(RetryPolicyTest, AnyFailureWhileCancellingEndsCancelled) {
  RetryPolicy policy(1);
  store::JobRecord job = Running();
  job.state = v1::JOB_STATE_CANCELLING;
  for (const char* word : {"INVALID", "RESOURCE", "NUMERIC", "TRANSIENT",
                           "LOST", "DRAINED", "INTERNAL"}) {
    EXPECT_EQ(policy.Decide(job, FailureOf(word)).to, v1::JOB_STATE_CANCELLED);
  }
}

TEST(RetryPolicyTest, PermanentClassesAndUnknownWordsFailAtOnce) {
  RetryPolicy policy(1);
  for (const char* word : {"INVALID", "NUMERIC", "INTERNAL"}) {
    const store::Outcome outcome = policy.Decide(Running(), FailureOf(word));
    EXPECT_EQ(outcome.to, v1::JOB_STATE_FAILED) << word;
    EXPECT_EQ(outcome.failure.failure_class(), word);
    EXPECT_EQ(outcome.failure.reason(), "SOMETHING");
  }
  const store::Outcome unknown = policy.Decide(Running(), FailureOf("OOPS"));
  EXPECT_EQ(unknown.to, v1::JOB_STATE_FAILED);
  EXPECT_EQ(unknown.failure.failure_class(), "INTERNAL");
}

TEST(RetryPolicyTest, TransientDoublesFromFifteenSecondsThenGivesUp) {
  RetryPolicy policy(1);
  store::JobRecord job = Running();
  for (const int seconds : {15, 30, 60, 120, 240}) {
    const store::Outcome outcome = policy.Decide(job, FailureOf("TRANSIENT"));
    ASSERT_EQ(outcome.to, v1::JOB_STATE_PENDING);
    EXPECT_GE(outcome.backoff, absl::Seconds(seconds) * 0.8);
    EXPECT_LE(outcome.backoff, absl::Seconds(seconds) * 1.2);
    job.transient_failures = outcome.transient_failures;
  }
  EXPECT_EQ(policy.Decide(job, FailureOf("TRANSIENT")).to,
            v1::JOB_STATE_FAILED);
}

TEST(RetryPolicyTest, JitterComesFromTheSeed) {
  const v1::Failure failure = FailureOf("TRANSIENT");
  RetryPolicy one(5);
  RetryPolicy same(5);
  RetryPolicy other(6);
  const absl::Duration backoff = one.Decide(Running(), failure).backoff;
  EXPECT_EQ(same.Decide(Running(), failure).backoff, backoff);
  EXPECT_NE(other.Decide(Running(), failure).backoff, backoff);
}

TEST(RetryPolicyTest, ResourceIsTriedOnceMore) {
  RetryPolicy policy(1);
  store::JobRecord job = Running();
  const store::Outcome first = policy.Decide(job, FailureOf("RESOURCE"));
  EXPECT_EQ(first.to, v1::JOB_STATE_PENDING);
  job.resource_failures = first.resource_failures;
  EXPECT_EQ(policy.Decide(job, FailureOf("RESOURCE")).to, v1::JOB_STATE_FAILED);
}

TEST(RetryPolicyTest, ResourceIsNotTriedAgainWhereTheRetryWouldBeTheSame) {
  RetryPolicy policy(1);
  v1::Failure device = FailureOf("RESOURCE");
  device.set_reason("DEVICE_OUT_OF_MEMORY");
  EXPECT_EQ(policy.Decide(Running(), device).to, v1::JOB_STATE_FAILED);
  store::JobRecord evaluation = Running();
  evaluation.spec.mutable_evaluate()->set_model("m");
  EXPECT_EQ(policy.Decide(evaluation, FailureOf("RESOURCE")).to,
            v1::JOB_STATE_FAILED);
}

TEST(RetryPolicyTest, AFullDiskWaitsForSpaceAsWhatIsTransient) {
  RetryPolicy policy(1);
  v1::Failure full = FailureOf("RESOURCE");
  full.set_reason("DISK_FULL");
  store::JobRecord job = Running();
  for (int retry = 0; retry < 5; ++retry) {
    const store::Outcome outcome = policy.Decide(job, full);
    ASSERT_EQ(outcome.to, v1::JOB_STATE_PENDING);
    // Less memory would be more disk.
    EXPECT_EQ(outcome.resource_failures, 0);
    job.transient_failures = outcome.transient_failures;
  }
  EXPECT_EQ(policy.Decide(job, full).to, v1::JOB_STATE_FAILED);
}

TEST(RetryPolicyTest, TwoLossesWithoutAStepArePoison) {
  RetryPolicy policy(1);
  store::JobRecord job = Running();
  const store::Outcome first = policy.Decide(job, FailureOf("LOST"));
  EXPECT_EQ(first.to, v1::JOB_STATE_QUEUED);
  EXPECT_FALSE(first.restore_attempt);
  job.unproductive_losses = first.unproductive_losses;
  job.steps_at_last_loss = first.steps_at_last_loss;
  const store::Outcome second = policy.Decide(job, FailureOf("LOST"));
  EXPECT_EQ(second.to, v1::JOB_STATE_FAILED);
  EXPECT_EQ(second.failure.reason(), "POISON");
  EXPECT_EQ(second.failure.metadata().at("last_reason"), "SOMETHING");
}

TEST(RetryPolicyTest, ALossAfterANewStepIsForgiven) {
  RetryPolicy policy(1);
  store::JobRecord job = Running();
  for (int loss = 0; loss < 20; ++loss) {
    ++job.committed_steps;
    const store::Outcome outcome = policy.Decide(job, FailureOf("LOST"));
    ASSERT_EQ(outcome.to, v1::JOB_STATE_QUEUED) << loss;
    EXPECT_EQ(outcome.unproductive_losses, 0);
    job.unproductive_losses = outcome.unproductive_losses;
    job.steps_at_last_loss = outcome.steps_at_last_loss;
  }
}

TEST(RetryPolicyTest, ADrainGivesTheAttemptBackAndGoesToTheHead) {
  RetryPolicy policy(1);
  store::JobRecord job = Running();
  job.unproductive_losses = 1;
  const store::Outcome outcome = policy.Decide(job, FailureOf("DRAINED"));
  EXPECT_EQ(outcome.to, v1::JOB_STATE_QUEUED);
  EXPECT_TRUE(outcome.restore_attempt);
  EXPECT_TRUE(outcome.requeue_at_head);
  EXPECT_EQ(outcome.unproductive_losses, 1);
}

}  // namespace
}  // namespace quantd::scheduler
