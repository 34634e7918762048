// SPDX-License-Identifier: Apache-2.0
// `quantd --embedded` with the real worker and runner: one that dies comes
// back, and the job that it had ends.
#include <gtest/gtest.h>
#include <signal.h>

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/integration/cluster.h"

namespace quantd::integration {
namespace {

// The child of `parent`; 0 where it has none.
pid_t ChildOf(pid_t parent) {
  // The child was forked by another thread than the first.
  const support::CommandResult listed = support::RunCommand(
      {"/bin/sh", "-c",
       absl::StrCat("cat /proc/", parent, "/task/*/children")});
  int pid = 0;
  return absl::SimpleAtoi(absl::StripAsciiWhitespace(listed.output), &pid) ? pid
                                                                           : 0;
}

TEST(Embedded, AWorkerThatIsKilledComesBackAndItsJobEnds) {
  support::TemporaryDirectory directory;
  Cluster cluster(directory.path());
  cluster.StartServer({"--embedded", "--device", "cpu"});
  ASSERT_TRUE(cluster.server_running()) << cluster.ServerLog();
  const std::string id = cluster.Submit(TinyJob("gptq", 4), "embedded");
  ASSERT_FALSE(id.empty()) << cluster.ServerLog();
  ASSERT_TRUE(support::WaitFor(absl::Minutes(3), [&] {
    grpc::ClientContext context;
    v1::GetJobRequest request;
    request.set_job_id(id);
    v1::GetJobResponse response;
    return cluster.jobs().GetJob(&context, request, &response).ok() &&
           response.job().committed_steps() >= 2;
  })) << cluster.ServerLog();
  const pid_t worker = ChildOf(cluster.server().pid());
  ASSERT_GT(worker, 0);
  kill(worker, SIGKILL);
  const v1::Job job = cluster.WaitTerminal(id, absl::Minutes(5));
  EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.ShortDebugString();
  EXPECT_NE(ChildOf(cluster.server().pid()), worker);
  // It goes with the server, which lets it drain.
  cluster.server().Signal(SIGTERM);
  EXPECT_EQ(cluster.server().Wait(absl::Seconds(20)), 0);
}

}  // namespace
}  // namespace quantd::integration
