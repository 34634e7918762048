// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/catalog.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/base/atomic_file.h"
#include "server/metrics/job_observer.h"
#include "server/metrics/metrics.h"
#include "tests/support/process.h"
#include "tests/support/test_data.h"

namespace quantd::metrics {
namespace {

using ::testing::HasSubstr;

std::vector<std::string> LabelsFor(const MetricInfo& info) {
  return std::vector<std::string>(info.labels.size(), "x");
}

TEST(Catalog, IsSortedAndNamedByTheRules) {
  const auto& catalog = Catalog();
  EXPECT_TRUE(std::is_sorted(
      catalog.begin(), catalog.end(), [](const auto& a, const auto& b) {
        return absl::string_view(a.name) < absl::string_view(b.name);
      }));
  for (const MetricInfo& info : catalog) {
    const std::string name = info.name;
    EXPECT_TRUE(absl::StartsWith(name, "quantd_"));
    EXPECT_EQ(absl::EndsWith(name, "_total"), info.type == Type::kCounter)
        << name;
    EXPECT_EQ(!info.buckets.empty(), info.type == Type::kHistogram) << name;
    EXPECT_TRUE(std::is_sorted(info.buckets.begin(), info.buckets.end()));
    EXPECT_FALSE(std::string(info.help).empty());
  }
}

TEST(Catalog, EveryMetricIsDocumented) {
  const auto page =
      base::ReadFile(support::SourcePath("docs/operations/metrics.md"));
  ASSERT_TRUE(page.ok());
  for (const MetricInfo& info : Catalog()) {
    EXPECT_THAT(*page, HasSubstr(absl::StrCat("`", info.name, "`")));
  }
}

TEST(Metrics, TheTextPassesPromtool) {
  if (support::RunCommand({"/bin/sh", "-c", "command -v promtool"}).exit_code !=
      0) {
    GTEST_SKIP() << "promtool is not installed";
  }
  Metrics metrics;
  for (const MetricInfo& info : Catalog()) {
    if (info.type == Type::kCounter) {
      metrics.Increment(info.name, LabelsFor(info));
    } else if (info.type == Type::kGauge) {
      metrics.Set(info.name, 1, LabelsFor(info));
    } else {
      metrics.Observe(info.name, 0.5, LabelsFor(info));
    }
  }
  support::TemporaryDirectory directory;
  ASSERT_TRUE(
      base::WriteFileAtomically(directory.File("metrics"), metrics.Text())
          .ok());
  const auto result = support::RunCommand(
      {"/bin/sh", "-c",
       "promtool check metrics < " + directory.File("metrics")});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_EQ(result.output, "");
}

v1::Event Change(v1::JobState from, v1::JobState to, int64_t second,
                 const std::string& failure_class = "") {
  v1::Event event;
  event.set_job_id("j");
  event.set_seq(1);
  event.mutable_time()->set_seconds(second);
  event.mutable_state_changed()->set_from(from);
  event.mutable_state_changed()->set_to(to);
  if (!failure_class.empty()) {
    event.mutable_state_changed()->mutable_failure()->set_failure_class(
        failure_class);
    event.mutable_state_changed()->mutable_failure()->set_reason("WHY");
  }
  return event;
}

TEST(JobObserver, CountsTheLifeOfAJob) {
  Metrics metrics;
  JobObserver observer(metrics);
  observer.OnEvents(
      {Change(v1::JOB_STATE_UNSPECIFIED, v1::JOB_STATE_QUEUED, 100),
       Change(v1::JOB_STATE_QUEUED, v1::JOB_STATE_LEASED, 103),
       Change(v1::JOB_STATE_LEASED, v1::JOB_STATE_RUNNING, 104),
       Change(v1::JOB_STATE_RUNNING, v1::JOB_STATE_QUEUED, 110, "LOST"),
       Change(v1::JOB_STATE_QUEUED, v1::JOB_STATE_LEASED, 111),
       Change(v1::JOB_STATE_LEASED, v1::JOB_STATE_CANCELLING, 112),
       Change(v1::JOB_STATE_CANCELLING, v1::JOB_STATE_CANCELLED, 115)});
  const std::string text = metrics.Text();
  for (const char* line :
       {"quantd_lease_granted_total 2", "quantd_lease_expired_total 1",
        "quantd_job_queue_duration_seconds_sum 4",
        "quantd_job_attempts_total{class=\"LOST\"} 1",
        "quantd_cancel_latency_seconds_sum 3",
        "quantd_job_run_duration_seconds_sum{result=\"queued\"} 7",
        "quantd_job_finished_total{reason=\"\",result=\"cancelled\"} 1",
        "quantd_events_appended_total 7"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

}  // namespace
}  // namespace quantd::metrics
