// SPDX-License-Identifier: Apache-2.0
#include "server/scheduler/lease.h"

#include "gtest/gtest.h"

namespace quantd::scheduler {
namespace {

v1::Lease LeaseOf(int64_t epoch, const std::string& incarnation = "inc") {
  v1::Lease lease;
  lease.set_job_id("job");
  lease.set_epoch(epoch);
  lease.set_incarnation(incarnation);
  return lease;
}

constexpr absl::Duration kTtl = absl::Seconds(30);

TEST(LeaseTableTest, ALeaseEndsOneTtlAfterTheLastRenewal) {
  LeaseTable table(kTtl);
  table.Add(LeaseOf(1), "w", absl::Seconds(100));
  EXPECT_TRUE(table.Expired(absl::Seconds(129)).empty());
  EXPECT_TRUE(table.Renew(LeaseOf(1), true, absl::Seconds(129)));
  EXPECT_TRUE(table.Expired(absl::Seconds(158)).empty());
  EXPECT_EQ(table.Expired(absl::Seconds(159)).size(), 1);
  EXPECT_EQ(table.NextDeadline(), absl::Seconds(159));
}

TEST(LeaseTableTest, ALateMessageNeverShortensALease) {
  LeaseTable table(kTtl);
  table.Add(LeaseOf(1), "w", absl::Seconds(100));
  table.Renew(LeaseOf(1), true, absl::Seconds(120));
  table.Renew(LeaseOf(1), true, absl::Seconds(101));
  EXPECT_EQ(table.NextDeadline(), absl::Seconds(150));
}

TEST(LeaseTableTest, OnlyTheExactLeaseIsRenewed) {
  LeaseTable table(kTtl);
  table.Add(LeaseOf(2), "w", absl::Seconds(100));
  EXPECT_FALSE(table.Renew(LeaseOf(1), true, absl::Seconds(101)));
  EXPECT_FALSE(table.Renew(LeaseOf(3), true, absl::Seconds(101)));
  EXPECT_FALSE(table.Renew(LeaseOf(2, "other"), true, absl::Seconds(101)));
  EXPECT_FALSE(table.Find("job")->acknowledged);
  EXPECT_TRUE(table.Renew(LeaseOf(2), true, absl::Seconds(101)));
  EXPECT_TRUE(table.Find("job")->acknowledged);
}

TEST(LeaseTableTest, RemovingAnOldLeaseKeepsTheNewOne) {
  LeaseTable table(kTtl);
  table.Add(LeaseOf(2), "w", absl::Seconds(100));
  table.Remove(LeaseOf(1));
  EXPECT_TRUE(table.Find("job").has_value());
  table.Add(LeaseOf(1), "w", absl::Seconds(100));
  EXPECT_EQ(table.Find("job")->lease.epoch(), 2);
  table.Remove(LeaseOf(2));
  EXPECT_FALSE(table.Find("job").has_value());
  EXPECT_EQ(table.NextDeadline(), absl::InfiniteDuration());
}

TEST(LeaseTableTest, KnowsTheLeasesOfAWorker) {
  LeaseTable table(kTtl);
  table.Add(LeaseOf(1), "w", absl::Seconds(100));
  EXPECT_EQ(table.OfWorker("w").size(), 1);
  EXPECT_TRUE(table.OfWorker("v").empty());
}

}  // namespace
}  // namespace quantd::scheduler
