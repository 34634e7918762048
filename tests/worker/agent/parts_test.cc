// SPDX-License-Identifier: Apache-2.0
// The parts of an agent that need no process and no server.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "tests/support/test_data.h"
#include "worker/agent/device.h"
#include "worker/agent/heartbeat.h"
#include "worker/agent/log_buffer.h"
#include "worker/agent/reconcile.h"
#include "worker/agent/runner_death.h"

namespace quantd::agent {
namespace {

TEST(LogBufferTest, KeepsTheLastTwoHundredLines) {
  LogBuffer log;
  for (int i = 0; i < 300; ++i) log.Append(absl::StrCat("line ", i, "\n"));
  log.Append("unfinished");
  const std::string tail = log.Tail();
  EXPECT_TRUE(absl::StartsWith(tail, "line 100\n"));
  EXPECT_TRUE(absl::EndsWith(tail, "line 299\nunfinished"));
}

TEST(LogBufferTest, TheTailIsValidUtf8WhateverWasPrinted) {
  LogBuffer log;
  log.Append("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 ok\n");
  // Lone continuation, overlong slash, surrogate, cut-off sequence.
  log.Append("\x80 \xc0\xaf \xed\xa0\x80 \xe2\x82");
  EXPECT_EQ(log.Tail(),
            "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 ok\n? ?? ??? ??");
}

TEST(LogBufferTest, OffsetsFollowWhatTheServerHas) {
  LogBuffer log;
  log.Append("abcdef");
  EXPECT_EQ(log.Next(4).text, "abcd");
  log.Acknowledge(4);
  EXPECT_EQ(log.Next(100).offset, 4);
  EXPECT_EQ(log.Next(100).text, "ef");
  // An old acknowledgement changes nothing.
  log.Acknowledge(2);
  EXPECT_EQ(log.Next(100).offset, 4);
  log.Acknowledge(6);
  log.Close();
  EXPECT_TRUE(log.drained());
}

TEST(LogBufferTest, WhatDoesNotFitIsCountedNotKept) {
  LogBuffer log;
  log.Append(std::string(kMaxPendingBytes, 'x'));
  log.Append("lost");
  EXPECT_EQ(log.Next(kMaxPendingBytes + 10).text.size(), kMaxPendingBytes);
  log.Acknowledge(kMaxPendingBytes);
  log.Append("kept\n");
  EXPECT_EQ(log.Next(1000).text, "[4 bytes of log left out]\nkept\n");
  EXPECT_EQ(log.Next(1000).offset, static_cast<int64_t>(kMaxPendingBytes));
}

TEST(HeartbeatTest, TheFenceIsBeforeTheEndOfTheLease) {
  EXPECT_EQ(FenceAfter(absl::Seconds(30)), absl::Seconds(25));
  EXPECT_EQ(FenceAfter(absl::Seconds(60)), absl::Seconds(55));
  EXPECT_EQ(FenceAfter(absl::Seconds(6)), absl::Seconds(5));
  EXPECT_EQ(BeatInterval(absl::Seconds(30)), absl::Seconds(5));
  EXPECT_EQ(BeatInterval(absl::Seconds(300)), absl::Seconds(5));
  EXPECT_EQ(BeatInterval(absl::Seconds(6)), absl::Seconds(1));
}

v1::Lease MakeLease(const std::string& job_id, int64_t epoch) {
  v1::Lease lease;
  lease.set_job_id(job_id);
  lease.set_epoch(epoch);
  lease.set_incarnation("me");
  return lease;
}

TEST(ReconcileTest, WhatIsDesiredAndNotHeldIsStarted) {
  v1::SynchronizeResponse response;
  *response.add_desired()->mutable_lease() = MakeLease("a", 1);
  const Plan plan = Reconcile({}, response);
  ASSERT_EQ(plan.start.size(), 1u);
  EXPECT_EQ(plan.start[0].lease().job_id(), "a");
}

TEST(ReconcileTest, TheSameAnswerAgainChangesNothing) {
  HeldLeases held;
  held.active = {KeyOf(MakeLease("a", 1))};
  v1::SynchronizeResponse response;
  *response.add_desired()->mutable_lease() = MakeLease("a", 1);
  const Plan plan = Reconcile(held, response);
  EXPECT_TRUE(plan.start.empty());
  EXPECT_TRUE(plan.abandon.empty());
  EXPECT_TRUE(plan.cancel.empty());
}

TEST(ReconcileTest, ANewEpochIsOtherWork) {
  HeldLeases held;
  held.active = {KeyOf(MakeLease("a", 1))};
  v1::SynchronizeResponse response;
  *response.add_desired()->mutable_lease() = MakeLease("a", 2);
  const Plan plan = Reconcile(held, response);
  EXPECT_EQ(plan.abandon.size(), 1u);
  EXPECT_EQ(plan.start.size(), 1u);
}

TEST(ReconcileTest, AnAnswerThatCrossedTheEndDoesNotStartItAgain) {
  HeldLeases held;
  held.ended = {KeyOf(MakeLease("a", 1))};
  v1::SynchronizeResponse response;
  *response.add_desired()->mutable_lease() = MakeLease("a", 1);
  EXPECT_TRUE(Reconcile(held, response).start.empty());
}

TEST(ReconcileTest, CancelGoesBeforeDesiredAndIsRepeatedUntilHeard) {
  HeldLeases held;
  held.active = {KeyOf(MakeLease("a", 1))};
  v1::SynchronizeResponse response;
  *response.add_desired()->mutable_lease() = MakeLease("a", 1);
  *response.add_cancel() = MakeLease("a", 1);
  Plan plan = Reconcile(held, response);
  EXPECT_EQ(plan.cancel.size(), 1u);
  EXPECT_TRUE(plan.abandon.empty());
  held.active.clear();
  held.stopped = {KeyOf(MakeLease("a", 1))};
  plan = Reconcile(held, response);
  EXPECT_EQ(plan.stopped, held.stopped);
  EXPECT_TRUE(plan.start.empty());
  EXPECT_TRUE(Reconcile(held, {}).stopped.empty());
}

// A machine's files with `kills` in the counters named by `version`.
void WriteCounters(const std::string& root, int version, int kills) {
  namespace fs = std::filesystem;
  const std::string group =
      version == 1 ? "/sys/fs/cgroup/memory/g" : "/sys/fs/cgroup/g";
  fs::create_directories(root + group);
  fs::create_directories(root + "/proc/self");
  std::ofstream(root + "/proc/self/cgroup")
      << (version == 1 ? "3:cpu:/\n4:memory:/g\n0::/\n" : "0::/g\n");
  std::ofstream(root + group +
                (version == 1 ? "/memory.oom_control" : "/memory.events"))
      << (version == 1 ? "oom_kill_disable 0\nunder_oom 0\n"
                       : "low 0\nhigh 0\nmax 9\noom 9\n")
      << "oom_kill " << kills << "\n";
}

TEST(RunnerDeathTest, TheKernelsCountersAreTheEvidence) {
  for (const int version : {1, 2}) {
    const support::TemporaryDirectory directory;
    const std::string root = directory.path() + "/";
    WriteCounters(root, version, 3);
    const OomEvidence evidence(root);
    EXPECT_FALSE(evidence.Happened()) << version;
    WriteCounters(root, version, 4);
    EXPECT_TRUE(evidence.Happened()) << version;
  }
}

TEST(RunnerDeathTest, TheCounterOfTheMachineCountsToo) {
  const support::TemporaryDirectory directory;
  const std::string root = directory.path() + "/";
  std::filesystem::create_directories(root + "proc");
  std::ofstream(root + "proc/vmstat") << "pgfault 12\noom_kill 5\n";
  const OomEvidence evidence(root);
  EXPECT_FALSE(evidence.Happened());
  std::ofstream(root + "proc/vmstat") << "pgfault 13\noom_kill 6\n";
  EXPECT_TRUE(evidence.Happened());
}

TEST(RunnerDeathTest, OnlyAKillWithEvidenceIsForMemory) {
  EXPECT_EQ(FailureOfDeadRunner({true, 9}, true, 0).reason(),
            "RUNNER_OUT_OF_MEMORY");
  EXPECT_EQ(FailureOfDeadRunner({true, 9}, true, 0).failure_class(),
            "RESOURCE");
  EXPECT_EQ(FailureOfDeadRunner({true, 9}, false, 0).reason(),
            "RUNNER_CRASHED");
  EXPECT_EQ(FailureOfDeadRunner({true, 6}, true, 0).reason(), "RUNNER_CRASHED");
  EXPECT_EQ(FailureOfDeadRunner({false, 1}, true, 0).failure_class(), "LOST");
}

TEST(DeviceTest, TheCpuHasANameAndMemory) {
  const auto device = OpenDevice("cpu");
  ASSERT_TRUE(device.ok());
  EXPECT_EQ((*device)->Read().id(), "cpu");
  EXPECT_FALSE((*device)->Read().name().empty());
  EXPECT_EQ((*device)->Read().total_memory_bytes(), HostMemoryBytes());
  EXPECT_GT((*device)->Read().free_memory_bytes(), 0);
}

TEST(DeviceTest, AutoAlwaysFindsOne) {
  const auto device = OpenDevice("auto");
  ASSERT_TRUE(device.ok());
  const std::string id = (*device)->Read().id();
  EXPECT_TRUE(id == "cpu" || absl::StartsWith(id, "cuda:"));
}

TEST(DeviceTest, WhatIsNoDeviceIsRefused) {
  EXPECT_EQ(base::ErrorReason(OpenDevice("gpu").status()), "DEVICE_UNKNOWN");
  EXPECT_EQ(base::ErrorReason(OpenDevice("cuda:x").status()), "DEVICE_UNKNOWN");
  EXPECT_EQ(base::ErrorReason(OpenDevice("cuda:-1").status()),
            "DEVICE_UNKNOWN");
  EXPECT_EQ(base::ErrorReason(OpenDevice("cuda:9999").status()),
            "DEVICE_NOT_FOUND");
}

}  // namespace
}  // namespace quantd::agent
