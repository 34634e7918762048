// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/job_observer.h"

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"
#include "google/protobuf/util/time_util.h"

namespace quantd::metrics {
namespace {

// Beyond this many live jobs, durations are no longer kept.
constexpr size_t kMaxLiveJobs = 200'000;

bool HasWorker(v1::JobState state) {
  return state == v1::JOB_STATE_LEASED || state == v1::JOB_STATE_RUNNING ||
         state == v1::JOB_STATE_CANCELLING;
}

bool IsTerminal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

std::string StateWord(v1::JobState state) {
  return absl::AsciiStrToLower(
      absl::StripPrefix(v1::JobState_Name(state), "JOB_STATE_"));
}

absl::Time TimeOf(const v1::Event& event) {
  return absl::FromUnixNanos(
      google::protobuf::util::TimeUtil::TimestampToNanoseconds(event.time()));
}

}  // namespace

void JobObserver::OnEvents(const std::vector<v1::Event>& events) {
  for (const v1::Event& event : events) {
    if (event.seq() == 0) continue;
    metrics_.Increment(kEventsAppended);
    if (event.has_state_changed()) OnStateChanged(event);
    if (!event.has_step_committed()) continue;
    const v1::StepCommitted& step = event.step_committed();
    metrics_.Observe(kStepDuration, step.seconds(), {step.kind()});
    for (const v1::LayerReport& layer : step.layers()) {
      metrics_.Observe(kLayerDuration, layer.seconds());
    }
  }
}

void JobObserver::OnStateChanged(const v1::Event& event) {
  const v1::StateChanged& change = event.state_changed();
  const absl::Time now = TimeOf(event);
  absl::MutexLock lock(&mu_);
  if (live_.size() >= kMaxLiveJobs && !live_.contains(event.job_id())) return;
  Times& times = live_[event.job_id()];
  if (HasWorker(change.from()) && !HasWorker(change.to())) {
    OnAttemptEnded(change, now, &times);
  }
  if (change.to() == v1::JOB_STATE_QUEUED) times.queued = now;
  if (change.to() == v1::JOB_STATE_CANCELLING) times.cancelling = now;
  if (change.to() == v1::JOB_STATE_LEASED) {
    metrics_.Increment(kLeaseGranted);
    times.granted = now;
    if (times.queued) {
      metrics_.Observe(kJobQueueDuration,
                       absl::ToDoubleSeconds(now - *times.queued));
    }
  }
  if (!IsTerminal(change.to())) return;
  metrics_.Increment(kJobFinished,
                     {StateWord(change.to()), change.failure().reason()});
  live_.erase(event.job_id());
}

void JobObserver::OnAttemptEnded(const v1::StateChanged& change, absl::Time now,
                                 Times* times) {
  if (times->granted) {
    metrics_.Observe(kJobRunDuration,
                     absl::ToDoubleSeconds(now - *times->granted),
                     {StateWord(change.to())});
  }
  if (times->cancelling && change.to() == v1::JOB_STATE_CANCELLED) {
    metrics_.Observe(kCancelLatency,
                     absl::ToDoubleSeconds(now - *times->cancelling));
  }
  if (change.failure().failure_class().empty()) return;
  metrics_.Increment(kJobAttempts, {change.failure().failure_class()});
  if (change.failure().failure_class() == "LOST") {
    metrics_.Increment(kLeaseExpired);
  }
}

}  // namespace quantd::metrics
