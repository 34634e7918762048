// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/job_states.h"

#include <map>
#include <string>

#include "gtest/gtest.h"
#include "proto/base/error.h"

namespace quantd::spec {
namespace {

// Rows: from. Columns: to. In the order PENDING QUEUED LEASED RUNNING
// CANCELLING SUCCEEDED FAILED CANCELLED. Written out by hand from the life of a
// job, one picture per actor.
const std::map<Actor, std::vector<std::string>>& Expected() {
  static const auto* const kTable =
      new std::map<Actor, std::vector<std::string>>{
          {Actor::kClient,
           {"- - - - - - - x",  // PENDING: cancel
            "- - - - - - - x",  // QUEUED: cancel
            "- - - - x - - -",  // LEASED: cancel
            "- - - - x - - -",  // RUNNING: cancel
            "- - - - - - - -",  // CANCELLING
            "- - - - - - - -",  // SUCCEEDED
            "- x - - - - - -",  // FAILED: retry
            "- x - - - - - -"}},
          {Actor::kWorker,
           {"- - - - - - - -",  // PENDING
            "- - - - - - - -",  // QUEUED
            "x x - x - x x -",  // LEASED
            "x x - - - x x -",  // RUNNING
            "- - - - - x - x",  // CANCELLING
            "- - - - - - - -", "- - - - - - - -", "- - - - - - - -"}},
          {Actor::kStaleWorker,
           {"- - - - - - - -", "- - - - - - - -", "- - - - - - - -",
            "- - - - - - - -", "- - - - - - - -", "- - - - - - - -",
            "- - - - - - - -", "- - - - - - - -"}},
          {Actor::kServer,
           {"- x - - - - - -",  // PENDING: the wait is over
            "- - x - - - x -",  // QUEUED: grant; can never run
            "- x - - - - x -",  // LEASED: lost
            "- x - - - - x -",  // RUNNING: lost
            "- - - - - - - x",  // CANCELLING: the worker is gone
            "- - - - - - - -", "- - - - - - - -", "- - - - - - - -"}}};
  return *kTable;
}

TEST(JobStatesTest, EveryPairOfStatesIsDecidedForEveryActor) {
  int pairs = 0;
  for (Actor actor : kAllActors) {
    const std::vector<std::string>& table = Expected().at(actor);
    for (size_t i = 0; i < AllJobStates().size(); ++i) {
      for (size_t j = 0; j < AllJobStates().size(); ++j) {
        const v1::JobState from = AllJobStates()[i];
        const v1::JobState to = AllJobStates()[j];
        const bool legal = table[i][2 * j] == 'x';
        EXPECT_EQ(MayTransition(from, to, actor), legal)
            << JobStateName(from) << " to " << JobStateName(to) << ", actor "
            << static_cast<int>(actor);
        EXPECT_EQ(CheckTransition(from, to, actor).ok(), legal);
        ++pairs;
      }
    }
  }
  EXPECT_EQ(pairs, 8 * 8 * 4);
}

TEST(JobStatesTest, OnlyRetryLeavesATerminalState) {
  for (v1::JobState from : AllJobStates()) {
    if (!IsTerminal(from)) continue;
    for (v1::JobState to : AllJobStates()) {
      for (Actor actor : kAllActors) {
        if (MayTransition(from, to, actor)) {
          EXPECT_EQ(to, v1::JOB_STATE_QUEUED);
          EXPECT_EQ(actor, Actor::kClient);
        }
      }
    }
  }
}

TEST(JobStatesTest, LeaseAndTerminalAreDisjoint) {
  for (v1::JobState state : AllJobStates()) {
    EXPECT_FALSE(IsTerminal(state) && HoldsLease(state));
  }
}

TEST(JobStatesTest, RefusalNamesBothStates) {
  const absl::Status status = CheckTransition(
      v1::JOB_STATE_SUCCEEDED, v1::JOB_STATE_QUEUED, Actor::kClient);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(base::ErrorReason(status), "JOB_STATE_CONFLICT");
  EXPECT_EQ(base::GetErrorMetadata(status)["state"], "SUCCEEDED");
  EXPECT_EQ(base::GetErrorMetadata(status)["wanted"], "QUEUED");
}

TEST(JobStatesTest, NamesRoundTrip) {
  for (v1::JobState state : AllJobStates()) {
    EXPECT_EQ(*ParseJobState(JobStateName(state)), state);
  }
  EXPECT_EQ(JobStateName(v1::JOB_STATE_RUNNING), "RUNNING");
  EXPECT_EQ(base::ErrorReason(ParseJobState("running").status()),
            "JOB_STATE_UNKNOWN");
}

}  // namespace
}  // namespace quantd::spec
