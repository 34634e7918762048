// SPDX-License-Identifier: Apache-2.0
// The main promise: kill -9 of any process at any moment costs at most the work
// since the last committed step and changes no byte of the result.
//
// QUANTD_KILLS sets how many random kills are done (default 24).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <map>
#include <random>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/integration/cluster.h"

namespace quantd::integration {
namespace {

constexpr absl::Duration kJobLimit = absl::Minutes(3);

enum class Victim { kRunner, kAgent, kServer };

std::string Name(Victim victim) {
  switch (victim) {
    case Victim::kRunner:
      return "Runner";
    case Victim::kAgent:
      return "Agent";
    case Victim::kServer:
      return "Server";
  }
  return "";
}

void KillAndRestart(Cluster& cluster, Victim victim) {
  switch (victim) {
    case Victim::kRunner:
      cluster.KillRunner();
      return;
    case Victim::kAgent:
      cluster.KillAgent();
      cluster.StartWorker();
      return;
    case Victim::kServer:
      cluster.KillServer();
      cluster.StartServer();
      return;
  }
}

int64_t CommittedSteps(Cluster& cluster, const std::string& job_id) {
  grpc::ClientContext context;
  v1::GetJobRequest request;
  request.set_job_id(job_id);
  v1::GetJobResponse response;
  if (!cluster.jobs().GetJob(&context, request, &response).ok()) return -1;
  if (response.job().state() >= v1::JOB_STATE_SUCCEEDED) return 1 << 20;
  return response.job().committed_steps();
}

void Retry(Cluster& cluster, const std::string& job_id) {
  grpc::ClientContext context;
  v1::RetryJobRequest request;
  request.set_job_id(job_id);
  v1::RetryJobResponse response;
  cluster.jobs().RetryJob(&context, request, &response);
}

// Ends the job, retrying it where the kills used up its attempts.
v1::Job Finish(Cluster& cluster, const std::string& job_id) {
  v1::Job job = cluster.WaitTerminal(job_id, kJobLimit);
  for (int i = 0; i < 3 && job.state() == v1::JOB_STATE_FAILED &&
                  job.failure().failure_class() == "LOST";
       ++i) {
    Retry(cluster, job_id);
    job = cluster.WaitTerminal(job_id, kJobLimit);
  }
  return job;
}

// Dense numbers from 1, and each step committed once per fingerprint.
void ExpectHistoryIsWhole(Cluster& cluster, const std::string& job_id) {
  int64_t expected = 1;
  std::multiset<int64_t> steps;
  for (const v1::Event& event : cluster.Events(job_id)) {
    EXPECT_EQ(event.seq(), expected++) << job_id;
    if (event.has_step_committed()) {
      steps.insert(event.step_committed().step());
    }
  }
  for (int64_t step : std::set<int64_t>(steps.begin(), steps.end())) {
    EXPECT_EQ(steps.count(step), 1u) << "step " << step << " of " << job_id;
  }
}

// What an undisturbed run of `spec` gives.
std::vector<std::string> UndisturbedDigests(const v1::JobSpec& spec) {
  support::TemporaryDirectory directory;
  Cluster cluster(directory.path());
  cluster.StartServer();
  cluster.StartWorker();
  const std::string id = cluster.Submit(spec, "undisturbed");
  const v1::Job job = cluster.WaitTerminal(id, kJobLimit);
  EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED)
      << job.ShortDebugString() << cluster.WorkerLog();
  return cluster.ManifestDigests(id);
}

class BoundaryKillTest : public testing::TestWithParam<Victim> {};

TEST_P(BoundaryKillTest, KillAtEachStepBoundaryKeepsTheBytes) {
  const v1::JobSpec spec = TinyJob("gptq", 4);
  const std::vector<std::string> wanted = UndisturbedDigests(spec);
  ASSERT_FALSE(wanted.empty());
  support::TemporaryDirectory directory;
  Cluster cluster(directory.path());
  cluster.StartServer();
  cluster.StartWorker();
  const std::string id = cluster.Submit(spec, "disturbed");
  ASSERT_FALSE(id.empty());
  int64_t killed = 0;
  for (int64_t boundary = 1;; ++boundary) {
    int64_t steps = -1;
    ASSERT_TRUE(support::WaitFor(kJobLimit, [&] {
      steps = CommittedSteps(cluster, id);
      return steps >= boundary;
    })) << cluster.WorkerLog();
    if (steps >= 1 << 20) break;
    boundary = steps;
    KillAndRestart(cluster, GetParam());
    ++killed;
  }
  EXPECT_GE(killed, 3);
  const v1::Job job = Finish(cluster, id);
  ASSERT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.ShortDebugString();
  EXPECT_EQ(cluster.ManifestDigests(id), wanted);
  ExpectHistoryIsWhole(cluster, id);
}

INSTANTIATE_TEST_SUITE_P(Victims, BoundaryKillTest,
                         testing::Values(Victim::kRunner, Victim::kAgent,
                                         Victim::kServer),
                         [](const auto& test) { return Name(test.param); });

TEST(KillTest, RandomKillsOverManyJobsLoseNothing) {
  int kills = 24;
  if (const char* wanted = getenv("QUANTD_KILLS")) {
    ASSERT_TRUE(absl::SimpleAtoi(wanted, &kills));
  }
  std::vector<v1::JobSpec> specs = {TinyJob("gptq", 4), TinyJob("rtn", 3),
                                    TinyJob("adaround", 3)};
  (*specs.back()
        .mutable_quantize()
        ->mutable_recipe()
        ->mutable_method()
        ->mutable_params())["iterations"]
      .set_int_value(40);
  std::vector<std::vector<std::string>> wanted;
  for (const v1::JobSpec& spec : specs) {
    wanted.push_back(UndisturbedDigests(spec));
    ASSERT_FALSE(wanted.back().empty());
  }
  support::TemporaryDirectory directory;
  Cluster cluster(directory.path());
  cluster.StartServer();
  cluster.StartWorker();
  std::mt19937 random(20260101);
  std::map<std::string, size_t> jobs;  // Job id to its spec.
  const auto submit = [&] {
    const size_t which = jobs.size() % specs.size();
    const std::string id =
        cluster.Submit(specs[which], absl::StrCat("kill-", jobs.size()));
    ASSERT_FALSE(id.empty());
    jobs[id] = which;
  };
  submit();
  for (int i = 0; i < kills; ++i) {
    // A moment between two kills that grows to about two seconds, or the end
    // of everything that was submitted so far.
    const absl::Duration pause = absl::Milliseconds(random() % 2000);
    support::WaitFor(pause, [] { return false; });
    KillAndRestart(cluster, static_cast<Victim>(random() % 3));
    if (i % 6 == 0) submit();
  }
  for (const auto& [id, which] : jobs) {
    const v1::Job job = Finish(cluster, id);
    ASSERT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED)
        << job.ShortDebugString() << cluster.WorkerLog();
    EXPECT_EQ(cluster.ManifestDigests(id), wanted[which]) << id;
    ExpectHistoryIsWhole(cluster, id);
  }
  RecordProperty("kills", kills);
  RecordProperty("jobs", static_cast<int>(jobs.size()));
}

}  // namespace
}  // namespace quantd::integration
