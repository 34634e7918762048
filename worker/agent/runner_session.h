// SPDX-License-Identifier: Apache-2.0
// One runner from its start command to its death: it is fed, watched, stopped
// in steps that grow harder, and always reaped.
#pragma once

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/base/clock.h"
#include "quantd/v1/runner.pb.h"
#include "worker/agent/log_buffer.h"
#include "worker/agent/runner_death.h"
#include "worker/agent/runner_process.h"
#include "worker/agent/runner_streams.h"

namespace quantd::agent {

// Each is stronger than those before it; a request never grows weaker.
enum class Stop {
  kNone,
  // Let the current step end, then stop.
  kDrain,
  // Ask, wait, then kill.
  kCancel,
  // Kill now.
  kAbandon,
};

struct SessionOptions {
  // No frame for this long is a hang.
  absl::Duration stall_timeout = absl::Seconds(600);
  // How long a draining runner may work on its current step.
  absl::Duration drain_timeout = absl::Seconds(30);
  // From the request to stop to SIGTERM, and from there to SIGKILL.
  absl::Duration cancel_grace = absl::Seconds(10);
  absl::Duration kill_grace = absl::Seconds(5);
};

// Takes what the runner produces. Called from the session's own threads.
class SessionOutput {
 public:
  virtual ~SessionOutput() = default;
  virtual void OnProgress(const v1::Progress& progress) = 0;
  // May wait; an error ends the session.
  virtual absl::Status OnStep(v1::StepDone step) = 0;
  // The runner will be killed: OnStep must not wait any more.
  virtual void OnLeaving() = 0;
};

struct SessionResult {
  enum class Kind {
    kDone,
    kContinue,
    // By request, before it was done.
    kStopped,
    kDied,
    kHung,
    // It sent what no runner sends, or a step was refused: see `error`.
    kBroken,
  };
  Kind kind = Kind::kDied;
  v1::JobDone done;
  absl::Status error;
  ExitState exit;
  bool oom_evidence = false;
  int64_t peak_memory_bytes = 0;
};

// Raise and peak_memory_bytes from any thread, Run once.
class RunnerSession {
 public:
  RunnerSession(std::unique_ptr<RunnerProcess> process,
                const SessionOptions& options, SessionOutput& output,
                LogBuffer& log, base::Clock& clock);

  // Returns when the process is reaped.
  SessionResult Run(const v1::StartJob& start);
  void Raise(Stop stop);
  int64_t peak_memory_bytes() { return process_->peak_memory_bytes(); }

 private:
  using Kind = SessionResult::Kind;

  bool OnEvent(const v1::RunnerEvent& event);
  bool OnStep(const v1::StepDone& step);
  void OnEnd(const absl::Status& status);
  void End(Kind kind, absl::Status error = absl::OkStatus());

  // Waits for `condition` while the runner is heard of. False: it hung.
  bool AwaitAlive(const absl::Condition& condition);
  Kind Supervise(const v1::StartJob& start);
  void AwaitStepBoundary();
  // True where the runner was asked: it had not ended by itself.
  bool StopGently();
  bool AwaitExit(absl::Duration timeout);

  bool ReadyOrInterrupted() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool EndedOrInterrupted() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool StepEndedOrInterrupted() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::unique_ptr<RunnerProcess> process_;
  const SessionOptions options_;
  SessionOutput& output_;
  LogBuffer& log_;
  base::Clock& clock_;
  const OomEvidence oom_;

  mutable absl::Mutex mu_;
  Stop stop_ ABSL_GUARDED_BY(mu_) = Stop::kNone;
  bool ready_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  // The reader waits for room for a step: silence is not the runner's fault.
  bool step_waits_ ABSL_GUARDED_BY(mu_) = false;
  int64_t steps_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t steps_at_drain_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Duration last_heard_ ABSL_GUARDED_BY(mu_);
  SessionResult result_ ABSL_GUARDED_BY(mu_);
};

}  // namespace quantd::agent
