// SPDX-License-Identifier: Apache-2.0
#include "worker/runner/session.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <memory>
#include <new>
#include <string>
#include <thread>

#include "absl/synchronization/notification.h"
#include "proto/base/error.h"

namespace quantd::runner {
namespace {

using pipeline::Outcome;
using pipeline::RunResult;
using pipeline::Sink;

// The test is the agent; the session runs on a thread.
class SessionTest : public testing::Test {
 protected:
  SessionTest() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    agent_ = std::make_unique<base::FrameChannel>(fds[0]);
    runner_ = std::make_unique<base::FrameChannel>(fds[1]);
  }
  ~SessionTest() override {
    agent_->Shutdown();
    if (thread_.joinable()) thread_.join();
  }

  void Start(JobFunction job) {
    options_.device_name = "test device";
    options_.run_job = std::move(job);
    options_.on_orphaned = [this] { orphaned_.Notify(); };
    thread_ = std::thread([this] { status_ = RunSession(*runner_, options_); });
  }
  v1::RunnerEvent NextEvent() {
    v1::RunnerEvent event;
    const absl::StatusOr<std::string> frame = agent_->Read();
    EXPECT_TRUE(frame.ok()) << frame.status();
    if (frame.ok()) {
      EXPECT_TRUE(event.ParseFromString(*frame));
    }
    return event;
  }
  // Past progress, which may or may not come.
  v1::RunnerEvent NextOtherEvent() {
    v1::RunnerEvent event = NextEvent();
    while (event.has_progress()) event = NextEvent();
    return event;
  }
  void SendStart(const std::string& work_directory = "/work") {
    v1::RunnerCommand command;
    command.mutable_start()->set_work_directory(work_directory);
    ASSERT_TRUE(agent_->Write(command.SerializeAsString()).ok());
  }
  void SendCancel() {
    v1::RunnerCommand command;
    command.mutable_cancel();
    ASSERT_TRUE(agent_->Write(command.SerializeAsString()).ok());
  }
  // The end of a session whose job is `job`.
  v1::RunnerEvent EndOf(JobFunction job) {
    Start(std::move(job));
    EXPECT_TRUE(NextEvent().has_ready());
    SendStart();
    return NextOtherEvent();
  }

  std::unique_ptr<base::FrameChannel> agent_;
  std::unique_ptr<base::FrameChannel> runner_;
  SessionOptions options_;
  absl::Notification orphaned_;
  absl::Status status_;
  std::thread thread_;
};

TEST_F(SessionTest, SaysReadyThenStepsInOrderThenDone) {
  Start([](const v1::StartJob& start, Sink& sink,
           const base::CancelToken&) -> absl::StatusOr<RunResult> {
    for (int i = 0; i < 3; ++i) {
      v1::Step step;
      step.set_step(i);
      const absl::Status status =
          sink.StepDone(step, {{"weights", start.work_directory() + "/w"}});
      if (!status.ok()) return status;
    }
    RunResult result;
    result.report.set_float_bytes(7);
    result.artifacts.emplace_back().set_name("artifact");
    return result;
  });
  EXPECT_EQ(NextEvent().ready().device_name(), "test device");
  SendStart("/here");
  for (int i = 0; i < 3; ++i) {
    const v1::RunnerEvent event = NextOtherEvent();
    EXPECT_EQ(event.step_done().step().step(), i);
    EXPECT_EQ(event.step_done().files().at("weights"), "/here/w");
  }
  const v1::RunnerEvent done = NextOtherEvent();
  EXPECT_EQ(done.job_done().report().float_bytes(), 7);
  EXPECT_EQ(done.job_done().artifacts(0).name(), "artifact");
  EXPECT_FALSE(done.job_done().has_failure());
  thread_.join();
  EXPECT_TRUE(status_.ok());
}

TEST_F(SessionTest, ProgressIsSentWhileTheJobRuns) {
  absl::Notification seen;
  Start([&](const v1::StartJob&, Sink& sink,
            const base::CancelToken&) -> absl::StatusOr<RunResult> {
    v1::Progress progress;
    progress.set_detail("layer 3");
    sink.ReportProgress(progress);
    seen.WaitForNotification();
    return RunResult();
  });
  EXPECT_TRUE(NextEvent().has_ready());
  SendStart();
  EXPECT_EQ(NextEvent().progress().detail(), "layer 3");
  seen.Notify();
  EXPECT_TRUE(NextEvent().has_job_done());
}

TEST_F(SessionTest, CancelSetsTheTokenAndTheJobEndsAsCancelled) {
  absl::Notification running;
  Start([&](const v1::StartJob&, Sink&,
            const base::CancelToken& cancel) -> absl::StatusOr<RunResult> {
    running.Notify();
    while (!cancel.cancelled()) std::this_thread::yield();
    return cancel.Check();
  });
  EXPECT_TRUE(NextEvent().has_ready());
  SendStart();
  running.WaitForNotification();
  SendCancel();
  EXPECT_EQ(NextOtherEvent().job_done().failure().reason(), "CANCELLED");
}

TEST_F(SessionTest, ContinueElsewhereIsPassedOn) {
  EXPECT_TRUE(EndOf([](const v1::StartJob&, Sink&,
                       const base::CancelToken&) -> absl::StatusOr<RunResult> {
                RunResult result;
                result.outcome = Outcome::kContinueElsewhere;
                return result;
              }).has_continue_elsewhere());
}

TEST_F(SessionTest, AnErrorBecomesAFailureWithItsClass) {
  const v1::RunnerEvent end =
      EndOf([](const v1::StartJob&, Sink&,
               const base::CancelToken&) -> absl::StatusOr<RunResult> {
        return base::MakeError(absl::StatusCode::kInvalidArgument,
                               "MODEL_UNKNOWN", "no such model",
                               {{"model", "m"}});
      });
  const v1::Failure& failure = end.job_done().failure();
  EXPECT_EQ(failure.failure_class(), "INVALID");
  EXPECT_EQ(failure.reason(), "MODEL_UNKNOWN");
  EXPECT_EQ(failure.metadata().at("model"), "m");
}

TEST_F(SessionTest, WantOfMemoryIsAFailureNotACrash) {
  const v1::RunnerEvent end =
      EndOf([](const v1::StartJob&, Sink&,
               const base::CancelToken&) -> absl::StatusOr<RunResult> {
        throw std::bad_alloc();
      });
  EXPECT_EQ(end.job_done().failure().failure_class(), "RESOURCE");
  EXPECT_EQ(end.job_done().failure().reason(), "HOST_OUT_OF_MEMORY");
}

TEST_F(SessionTest, TheEndOfTheAgentIsNoticedWhileTheJobRuns) {
  absl::Notification running;
  Start([&](const v1::StartJob&, Sink&,
            const base::CancelToken& cancel) -> absl::StatusOr<RunResult> {
    running.Notify();
    while (!cancel.cancelled()) std::this_thread::yield();
    return cancel.Check();
  });
  EXPECT_TRUE(NextEvent().has_ready());
  SendStart();
  running.WaitForNotification();
  agent_->Shutdown();
  orphaned_.WaitForNotification();
}

TEST_F(SessionTest, TheEndOfTheAgentBeforeAJobIsAnError) {
  Start([](const v1::StartJob&, Sink&,
           const base::CancelToken&) -> absl::StatusOr<RunResult> {
    ADD_FAILURE() << "no job was sent";
    return RunResult();
  });
  EXPECT_TRUE(NextEvent().has_ready());
  agent_->Shutdown();
  thread_.join();
  EXPECT_FALSE(status_.ok());
}

TEST_F(SessionTest, AFrameThatIsNoCommandIsRefused) {
  Start([](const v1::StartJob&, Sink&,
           const base::CancelToken&) -> absl::StatusOr<RunResult> {
    ADD_FAILURE() << "no job was sent";
    return RunResult();
  });
  EXPECT_TRUE(NextEvent().has_ready());
  ASSERT_TRUE(agent_->Write("\x99\x99").ok());
  thread_.join();
  EXPECT_EQ(base::ErrorReason(status_), "AGENT_PROTOCOL_BROKEN");
}

}  // namespace
}  // namespace quantd::runner
