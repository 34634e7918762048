// SPDX-License-Identifier: Apache-2.0
// A pipeline's sink that writes frames. Steps go at once and in order; of
// progress only the newest message goes, so that a fast job does not fill the
// socket with it.
#pragma once

#include <map>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/base/frames.h"
#include "quantd/v1/runner.pb.h"
#include "worker/pipeline/pipeline.h"

namespace quantd::runner {

// At most one progress frame in this time.
inline constexpr absl::Duration kProgressPause = absl::Milliseconds(200);

// Used by the compute thread; a thread of its own sends progress, only when the
// compute thread reported some: a job that is stuck is silent.
class FrameSink : public pipeline::Sink {
 public:
  // `channel` outlives it.
  explicit FrameSink(base::FrameChannel& channel);
  // Progress that was not sent yet is dropped.
  ~FrameSink() override;

  void ReportProgress(const v1::Progress& progress) override;
  // Waits while the agent has no room for a further step.
  absl::Status StepDone(
      const v1::Step& step,
      const std::map<std::string, std::string>& files) override;

 private:
  void SendProgress();
  bool HasProgressOrEnds() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  base::FrameChannel& channel_;
  absl::Mutex mu_;
  bool has_progress_ ABSL_GUARDED_BY(mu_) = false;
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  v1::Progress progress_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

}  // namespace quantd::runner
