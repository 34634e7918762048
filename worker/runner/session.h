// SPDX-License-Identifier: Apache-2.0
// A runner's side of the frames: waits for a job, runs it on the compute
// thread, and passes on what it says. It ends the process when the agent goes.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "proto/base/cancel.h"
#include "proto/base/frames.h"
#include "quantd/v1/runner.pb.h"
#include "worker/pipeline/pipeline.h"

namespace quantd::runner {

// pipeline::RunJob, or what a test puts in its place.
using JobFunction = std::function<absl::StatusOr<pipeline::RunResult>(
    const v1::StartJob&, pipeline::Sink&, const base::CancelToken&)>;

struct SessionOptions {
  std::string device_name;
  JobFunction run_job;
  // Called once, on the command thread, when the agent has gone. In the program
  // it ends the process without a further word: nobody listens.
  std::function<void()> on_orphaned;
};

// Sends RunnerReady, waits for StartJob, runs the job on the calling thread and
// sends its end. Returns when that is sent, or an error where no job came.
absl::Status RunSession(base::FrameChannel& channel,
                        const SessionOptions& options);

}  // namespace quantd::runner
