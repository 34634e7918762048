// SPDX-License-Identifier: Apache-2.0
#include "worker/runner/frame_sink.h"

namespace quantd::runner {

FrameSink::FrameSink(base::FrameChannel& channel)
    : channel_(channel), thread_([this] { SendProgress(); }) {}

FrameSink::~FrameSink() {
  {
    absl::MutexLock lock(&mu_);
    ending_ = true;
  }
  thread_.join();
}

void FrameSink::ReportProgress(const v1::Progress& progress) {
  absl::MutexLock lock(&mu_);
  progress_ = progress;
  has_progress_ = true;
}

absl::Status FrameSink::StepDone(
    const v1::Step& step, const std::map<std::string, std::string>& files) {
  v1::RunnerEvent event;
  *event.mutable_step_done()->mutable_step() = step;
  event.mutable_step_done()->mutable_files()->insert(files.begin(),
                                                     files.end());
  return channel_.Write(event.SerializeAsString());
}

bool FrameSink::HasProgressOrEnds() const { return has_progress_ || ending_; }

void FrameSink::SendProgress() {
  for (;;) {
    v1::RunnerEvent event;
    {
      absl::MutexLock lock(&mu_);
      mu_.Await(absl::Condition(this, &FrameSink::HasProgressOrEnds));
      if (ending_) return;
      *event.mutable_progress() = progress_;
      has_progress_ = false;
    }
    // A failed write means that the agent has gone, which ends the process.
    channel_.Write(event.SerializeAsString()).IgnoreError();
    absl::MutexLock lock(&mu_);
    if (mu_.AwaitWithTimeout(absl::Condition(&ending_), kProgressPause)) return;
  }
}

}  // namespace quantd::runner
