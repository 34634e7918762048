// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/runner_session.h"

#include <signal.h>

#include <algorithm>

#include "proto/base/error.h"
#include "worker/agent/monotonic_wait.h"

namespace quantd::agent {
namespace {

// How long waits look away from a request that arrives meanwhile.
constexpr absl::Duration kSlice = absl::Milliseconds(50);

bool SendCommand(RunnerProcess& process, const v1::RunnerCommand& command) {
  return process.channel().Write(command.SerializeAsString()).ok();
}

}  // namespace

RunnerSession::RunnerSession(std::unique_ptr<RunnerProcess> process,
                             const SessionOptions& options,
                             SessionOutput& output, LogBuffer& log,
                             base::Clock& clock)
    : process_(std::move(process)),
      options_(options),
      output_(output),
      log_(log),
      clock_(clock),
      last_heard_(clock.Monotonic()) {}

void RunnerSession::Raise(Stop stop) {
  absl::MutexLock lock(&mu_);
  if (stop <= stop_) return;
  stop_ = stop;
  if (stop == Stop::kDrain) steps_at_drain_ = steps_;
  // At once, without waiting for the thread that runs the session.
  if (stop == Stop::kAbandon) process_->Signal(SIGKILL);
}

SessionResult RunnerSession::Run(const v1::StartJob& start) {
  Kind kind;
  {
    const RunnerStreams streams(
        *process_, log_,
        {[this](const v1::RunnerEvent& event) { return OnEvent(event); },
         [this](const absl::Status& status) { OnEnd(status); }});
    kind = Supervise(start);
    if (kind == Kind::kStopped || kind == Kind::kHung) output_.OnLeaving();
    // A runner that has said its last word only has to go.
    if (kind == Kind::kDone || kind == Kind::kContinue || kind == Kind::kDied) {
      AwaitExit(options_.kill_grace);
    }
    process_->peak_memory_bytes();
    process_->Signal(SIGKILL);
    process_->AwaitExit(absl::InfiniteDuration());
  }
  absl::MutexLock lock(&mu_);
  result_.kind = kind;
  result_.exit = *process_->AwaitExit(absl::ZeroDuration());
  result_.oom_evidence = oom_.Happened();
  result_.peak_memory_bytes = process_->peak_memory_bytes();
  return result_;
}

SessionResult::Kind RunnerSession::Supervise(const v1::StartJob& start) {
  if (!AwaitAlive(absl::Condition(this, &RunnerSession::ReadyOrInterrupted))) {
    return Kind::kHung;
  }
  {
    absl::MutexLock lock(&mu_);
    if (ended_) return result_.kind;
    // Nothing runs yet, so that there is nothing to ask for.
    if (stop_ != Stop::kNone) return Kind::kStopped;
  }
  v1::RunnerCommand command;
  *command.mutable_start() = start;
  // A failed write shows as the end of the socket.
  SendCommand(*process_, command);
  if (!AwaitAlive(absl::Condition(this, &RunnerSession::EndedOrInterrupted))) {
    return Kind::kHung;
  }
  AwaitStepBoundary();
  const bool asked = StopGently();
  absl::MutexLock lock(&mu_);
  if (!ended_ || stop_ >= Stop::kCancel) return Kind::kStopped;
  // Asked to stop, it may end in any way; what it finished still counts.
  return asked && result_.kind != Kind::kDone ? Kind::kStopped : result_.kind;
}

void RunnerSession::AwaitStepBoundary() {
  absl::MutexLock lock(&mu_);
  if (ended_ || stop_ != Stop::kDrain) return;
  AwaitUntil(mu_, absl::Condition(this, &RunnerSession::StepEndedOrInterrupted),
             clock_, clock_.Monotonic() + options_.drain_timeout);
}

bool RunnerSession::StopGently() {
  {
    absl::MutexLock lock(&mu_);
    if (ended_ || stop_ == Stop::kAbandon) return false;
  }
  v1::RunnerCommand command;
  command.mutable_cancel();
  SendCommand(*process_, command);
  if (!AwaitExit(options_.cancel_grace)) {
    process_->Signal(SIGTERM);
    AwaitExit(options_.kill_grace);
  }
  return true;
}

bool RunnerSession::AwaitExit(absl::Duration timeout) {
  const absl::Duration deadline = clock_.Monotonic() + timeout;
  while (clock_.Monotonic() < deadline) {
    if (process_->AwaitExit(kSlice).has_value()) return true;
    absl::MutexLock lock(&mu_);
    if (stop_ == Stop::kAbandon) return false;
  }
  return false;
}

bool RunnerSession::AwaitAlive(const absl::Condition& condition) {
  absl::MutexLock lock(&mu_);
  for (;;) {
    const absl::Duration deadline = last_heard_ + options_.stall_timeout;
    if (AwaitUntil(mu_, condition, clock_, deadline)) return true;
    if (step_waits_) last_heard_ = clock_.Monotonic();
    if (last_heard_ + options_.stall_timeout <= deadline) return false;
  }
}

bool RunnerSession::OnEvent(const v1::RunnerEvent& event) {
  {
    absl::MutexLock lock(&mu_);
    last_heard_ = clock_.Monotonic();
  }
  switch (event.kind_case()) {
    case v1::RunnerEvent::kReady: {
      absl::MutexLock lock(&mu_);
      ready_ = true;
      return true;
    }
    case v1::RunnerEvent::kProgress:
      output_.OnProgress(event.progress());
      return true;
    case v1::RunnerEvent::kStepDone:
      return OnStep(event.step_done());
    case v1::RunnerEvent::kJobDone: {
      absl::MutexLock lock(&mu_);
      result_.done = event.job_done();
    }
      End(Kind::kDone);
      return false;
    case v1::RunnerEvent::kContinueElsewhere:
      End(Kind::kContinue);
      return false;
    case v1::RunnerEvent::KIND_NOT_SET:
      break;
  }
  return true;
}

bool RunnerSession::OnStep(const v1::StepDone& step) {
  {
    absl::MutexLock lock(&mu_);
    step_waits_ = true;
  }
  const absl::Status status = output_.OnStep(step);
  absl::MutexLock lock(&mu_);
  step_waits_ = false;
  last_heard_ = clock_.Monotonic();
  ++steps_;
  if (status.ok()) return true;
  result_.kind = Kind::kBroken;
  result_.error = status;
  ended_ = true;
  return false;
}

void RunnerSession::OnEnd(const absl::Status& status) {
  // Death may cut a frame short: that is no fault of the protocol.
  if (absl::IsOutOfRange(status) ||
      base::ErrorReason(status) == "FRAME_TRUNCATED") {
    return End(Kind::kDied);
  }
  End(Kind::kBroken, status);
}

void RunnerSession::End(Kind kind, absl::Status error) {
  absl::MutexLock lock(&mu_);
  if (ended_) return;
  result_.kind = kind;
  result_.error = std::move(error);
  ended_ = true;
}

bool RunnerSession::ReadyOrInterrupted() const {
  return ready_ || ended_ || stop_ != Stop::kNone;
}

bool RunnerSession::EndedOrInterrupted() const {
  return ended_ || stop_ != Stop::kNone;
}

bool RunnerSession::StepEndedOrInterrupted() const {
  return ended_ || stop_ > Stop::kDrain || steps_ > steps_at_drain_;
}

}  // namespace quantd::agent
