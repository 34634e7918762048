// SPDX-License-Identifier: Apache-2.0
// Live events, fanned out to the watchers of each job. History comes in commit
// order from the store's writer; progress comes from anywhere and is not
// history. The hub stores nothing: a Watch (watch.h) joins it with the store.
// Thread-safe. No callback runs under the hub's lock.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "quantd/v1/event.pb.h"

namespace quantd::events {

inline constexpr size_t kMaxQueuedEvents = 1024;

// One watcher's bounded queue. Progress is coalesced to the newest message;
// where history does not fit, the queue overflows and ends.
class Subscription {
 public:
  // `on_ready` may be empty; it is called without locks, from the publisher's
  // thread, whenever something was added.
  explicit Subscription(std::function<void()> on_ready);

  // The next event; nothing where none came within `timeout`.
  // RESOURCE_EXHAUSTED, EVENTS_OVERFLOW once history was lost: resume by seq.
  absl::StatusOr<std::optional<v1::Event>> Next(absl::Duration timeout);

 private:
  friend class Hub;
  void Add(const v1::Event& event);

  const std::function<void()> on_ready_;
  absl::Mutex mu_;
  std::deque<v1::Event> history_ ABSL_GUARDED_BY(mu_);
  std::optional<v1::Event> progress_ ABSL_GUARDED_BY(mu_);
  bool overflowed_ ABSL_GUARDED_BY(mu_) = false;
};

class Hub {
 public:
  // Subscribed for as long as the pointer lives; the hub keeps a weak one.
  std::shared_ptr<Subscription> Subscribe(
      const std::string& job_id, std::function<void()> on_ready = nullptr);
  void Publish(const std::vector<v1::Event>& events);
  int64_t num_subscribers();

 private:
  absl::Mutex mu_;
  std::multimap<std::string, std::weak_ptr<Subscription>> subscriptions_
      ABSL_GUARDED_BY(mu_);
};

}  // namespace quantd::events
