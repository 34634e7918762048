// SPDX-License-Identifier: Apache-2.0
#include "server/events/hub.h"

#include <utility>

#include "proto/base/error.h"

namespace quantd::events {

Subscription::Subscription(std::function<void()> on_ready)
    : on_ready_(std::move(on_ready)) {}

absl::StatusOr<std::optional<v1::Event>> Subscription::Next(
    absl::Duration timeout) {
  absl::MutexLock lock(&mu_);
  auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return overflowed_ || !history_.empty() || progress_.has_value();
  };
  mu_.AwaitWithTimeout(absl::Condition(&ready), timeout);
  if (overflowed_) {
    return base::MakeError(absl::StatusCode::kResourceExhausted,
                           "EVENTS_OVERFLOW",
                           "the watcher is too slow; watch again from the last "
                           "event's number plus one");
  }
  std::optional<v1::Event> event;
  if (!history_.empty()) {
    event = std::move(history_.front());
    history_.pop_front();
  } else if (progress_.has_value()) {
    event = std::exchange(progress_, std::nullopt);
  }
  return event;
}

void Subscription::Add(const v1::Event& event) {
  {
    absl::MutexLock lock(&mu_);
    if (event.seq() == 0) {
      progress_ = event;
    } else if (history_.size() == kMaxQueuedEvents) {
      // A gap must never look like a stream: the watcher has to resume.
      overflowed_ = true;
      history_.clear();
    } else if (!overflowed_) {
      history_.push_back(event);
    }
  }
  if (on_ready_) on_ready_();
}

std::shared_ptr<Subscription> Hub::Subscribe(const std::string& job_id,
                                             std::function<void()> on_ready) {
  auto subscription = std::make_shared<Subscription>(std::move(on_ready));
  absl::MutexLock lock(&mu_);
  subscriptions_.emplace(job_id, subscription);
  return subscription;
}

void Hub::Publish(const std::vector<v1::Event>& events) {
  for (const v1::Event& event : events) {
    std::vector<std::shared_ptr<Subscription>> watchers;
    {
      absl::MutexLock lock(&mu_);
      auto [it, end] = subscriptions_.equal_range(event.job_id());
      while (it != end) {
        if (auto watcher = it->second.lock()) {
          watchers.push_back(std::move(watcher));
          ++it;
        } else {
          it = subscriptions_.erase(it);
        }
      }
    }
    for (const auto& watcher : watchers) watcher->Add(event);
  }
}

int64_t Hub::num_subscribers() {
  absl::MutexLock lock(&mu_);
  for (auto it = subscriptions_.begin(); it != subscriptions_.end();) {
    it = it->second.expired() ? subscriptions_.erase(it) : std::next(it);
  }
  return static_cast<int64_t>(subscriptions_.size());
}

}  // namespace quantd::events
