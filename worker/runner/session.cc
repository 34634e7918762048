// SPDX-License-Identifier: Apache-2.0
#include "worker/runner/session.h"

#include <utility>

#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/failure.h"
#include "worker/pipeline/guard.h"
#include "worker/runner/frame_sink.h"

namespace quantd::runner {
namespace {

absl::Status Send(base::FrameChannel& channel, const v1::RunnerEvent& event) {
  return channel.Write(event.SerializeAsString());
}

absl::StatusOr<v1::RunnerCommand> ReadCommand(base::FrameChannel& channel) {
  ASSIGN_OR_RETURN(const std::string frame, channel.Read());
  v1::RunnerCommand command;
  if (!command.ParseFromString(frame) ||
      command.kind_case() == v1::RunnerCommand::KIND_NOT_SET) {
    return base::MakeError(absl::StatusCode::kDataLoss, "AGENT_PROTOCOL_BROKEN",
                           "the agent sent a frame that is no command");
  }
  return command;
}

// Reads commands until the socket ends or this object does.
class CommandThread {
 public:
  CommandThread(base::FrameChannel& channel, base::CancelToken& cancel,
                const std::function<void()>& on_orphaned)
      : channel_(channel),
        cancel_(cancel),
        on_orphaned_(on_orphaned),
        thread_([this] { Run(); }) {}
  ~CommandThread() {
    {
      absl::MutexLock lock(&mu_);
      leaving_ = true;
    }
    channel_.Shutdown();
    thread_.join();
  }

 private:
  void Run() {
    for (;;) {
      const absl::StatusOr<v1::RunnerCommand> command = ReadCommand(channel_);
      if (!command.ok()) break;
      if (command->has_cancel()) cancel_.Cancel();
    }
    cancel_.Cancel();
    absl::MutexLock lock(&mu_);
    if (!leaving_) on_orphaned_();
  }

  base::FrameChannel& channel_;
  base::CancelToken& cancel_;
  const std::function<void()>& on_orphaned_;
  absl::Mutex mu_;
  bool leaving_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

v1::RunnerEvent EventOf(absl::StatusOr<pipeline::RunResult> result) {
  v1::RunnerEvent event;
  if (!result.ok()) {
    *event.mutable_job_done()->mutable_failure() =
        spec::FailureFromStatus(result.status());
    return event;
  }
  if (result->outcome == pipeline::Outcome::kContinueElsewhere) {
    event.mutable_continue_elsewhere();
    return event;
  }
  v1::JobDone& done = *event.mutable_job_done();
  *done.mutable_report() = std::move(result->report);
  for (v1::ProducedArtifact& artifact : result->artifacts) {
    *done.add_artifacts() = std::move(artifact);
  }
  return event;
}

}  // namespace

absl::Status RunSession(base::FrameChannel& channel,
                        const SessionOptions& options) {
  v1::RunnerEvent ready;
  ready.mutable_ready()->set_device_name(options.device_name);
  RETURN_IF_ERROR(Send(channel, ready));
  ASSIGN_OR_RETURN(const v1::RunnerCommand command, ReadCommand(channel));
  if (!command.has_start()) {
    return absl::CancelledError("cancelled before a job came");
  }
  base::CancelToken cancel;
  absl::StatusOr<pipeline::RunResult> result =
      absl::InternalError("the job did not run");
  const CommandThread commands(channel, cancel, options.on_orphaned);
  {
    FrameSink sink(channel);
    const absl::Status status = pipeline::RunGuarded([&]() -> absl::Status {
      result = options.run_job(command.start(), sink, cancel);
      return result.status();
    });
    if (!status.ok()) result = status;
  }
  return Send(channel, EventOf(std::move(result)));
}

}  // namespace quantd::runner
