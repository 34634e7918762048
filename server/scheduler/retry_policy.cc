// SPDX-License-Identifier: Apache-2.0
#include "server/scheduler/retry_policy.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace quantd::scheduler {
namespace {

constexpr absl::Duration kFirstBackoff = absl::Seconds(15);
constexpr absl::Duration kLongestBackoff = absl::Minutes(15);
constexpr double kJitter = 0.2;
constexpr int32_t kMaxTransientRetries = 5;
constexpr int32_t kMaxResourceRetries = 1;
constexpr int32_t kMaxUnproductiveLosses = 2;

store::Outcome Unchanged(const store::JobRecord& job,
                         const v1::Failure& failure) {
  store::Outcome outcome;
  outcome.to = v1::JOB_STATE_FAILED;
  outcome.transient_failures = job.transient_failures;
  outcome.resource_failures = job.resource_failures;
  outcome.unproductive_losses = job.unproductive_losses;
  outcome.steps_at_last_loss = job.steps_at_last_loss;
  outcome.failure = failure;
  return outcome;
}

// A job that takes its worker down each time must stop before it has taken
// them all; one that gets further each time may go on.
void DecideLost(const store::JobRecord& job, store::Outcome& outcome) {
  const bool productive = job.committed_steps > job.steps_at_last_loss;
  outcome.unproductive_losses = productive ? 0 : job.unproductive_losses + 1;
  outcome.steps_at_last_loss = job.committed_steps;
  if (outcome.unproductive_losses < kMaxUnproductiveLosses) {
    outcome.to = v1::JOB_STATE_QUEUED;
    return;
  }
  const std::string losses = absl::StrCat(outcome.unproductive_losses);
  (*outcome.failure.mutable_metadata())["last_reason"] =
      outcome.failure.reason();
  (*outcome.failure.mutable_metadata())["losses"] = losses;
  outcome.failure.set_reason("POISON");
  outcome.failure.set_message(absl::StrCat(
      "the worker was lost ", losses,
      " times in a row without a new step; look at the log of the last "
      "attempt, then retry the job"));
}

}  // namespace

FailureClass ParseFailureClass(absl::string_view word) {
  if (word.empty()) return FailureClass::kNone;
  if (word == "INVALID") return FailureClass::kInvalid;
  if (word == "RESOURCE") return FailureClass::kResource;
  if (word == "NUMERIC") return FailureClass::kNumeric;
  if (word == "TRANSIENT") return FailureClass::kTransient;
  if (word == "LOST") return FailureClass::kLost;
  if (word == "DRAINED") return FailureClass::kDrained;
  return FailureClass::kInternal;
}

RetryPolicy::RetryPolicy(uint64_t seed) : random_(seed) {}

store::Outcome RetryPolicy::Decide(const store::JobRecord& job,
                                   const v1::Failure& failure) {
  store::Outcome outcome = Unchanged(job, failure);
  const FailureClass failure_class = ParseFailureClass(failure.failure_class());
  if (failure_class == FailureClass::kNone) {
    outcome.to = v1::JOB_STATE_SUCCEEDED;
    return outcome;
  }
  // However the attempt ended, the user asked for the end.
  if (job.state == v1::JOB_STATE_CANCELLING) {
    outcome.to = v1::JOB_STATE_CANCELLED;
    outcome.failure.Clear();
    return outcome;
  }
  // No default: a new class does not compile until its row is written.
  switch (failure_class) {
    case FailureClass::kNone:
    case FailureClass::kInvalid:
    case FailureClass::kNumeric:
      break;
    case FailureClass::kInternal:
      outcome.failure.set_failure_class("INTERNAL");
      break;
    case FailureClass::kResource:
      DecideResource(job, outcome);
      break;
    case FailureClass::kTransient:
      DecideTransient(outcome);
      break;
    case FailureClass::kLost:
      DecideLost(job, outcome);
      break;
    case FailureClass::kDrained:
      outcome.to = v1::JOB_STATE_QUEUED;
      outcome.requeue_at_head = true;
      outcome.restore_attempt = true;
      break;
  }
  return outcome;
}

// A retry must change something. The next attempt is told the number of these
// failures and keeps activations on disk: that helps the machine's memory while
// quantizing, neither an evaluation nor a device. A disk may be freed
// meanwhile.
void RetryPolicy::DecideResource(const store::JobRecord& job,
                                 store::Outcome& outcome) {
  const std::string& reason = outcome.failure.reason();
  if (reason == "DISK_FULL") return DecideTransient(outcome);
  ++outcome.resource_failures;
  if (!job.spec.has_quantize() || reason == "DEVICE_OUT_OF_MEMORY") return;
  if (outcome.resource_failures > kMaxResourceRetries) return;
  outcome.to = v1::JOB_STATE_PENDING;
  outcome.backoff = Backoff(outcome.resource_failures);
}

void RetryPolicy::DecideTransient(store::Outcome& outcome) {
  ++outcome.transient_failures;
  if (outcome.transient_failures > kMaxTransientRetries) return;
  outcome.to = v1::JOB_STATE_PENDING;
  outcome.backoff = Backoff(outcome.transient_failures);
}

absl::Duration RetryPolicy::Backoff(int32_t failures) {
  absl::Duration wait = kFirstBackoff;
  for (int32_t i = 1; i < failures && wait < kLongestBackoff; ++i) wait *= 2;
  absl::MutexLock lock(&mu_);
  std::uniform_real_distribution<double> jitter(1 - kJitter, 1 + kJitter);
  return std::min(wait, kLongestBackoff) * jitter(random_);
}

}  // namespace quantd::scheduler
