// SPDX-License-Identifier: Apache-2.0
// One watcher's stream: stored events from a number on, then live ones, with
// no gap and no repeat. It subscribes first, then reads history up to the
// present, then drops from the live queue what history had already.
// One owner, one thread at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "quantd/v1/event.pb.h"
#include "server/events/hub.h"

namespace quantd::events {

// What the store says about a job's history.
struct History {
  // Events with seq >= the number asked for, in order; at most one page.
  std::vector<v1::Event> events;
  // The newest number at the time of reading.
  int64_t last_seq = 0;
  // The job was terminal at that time.
  bool terminal = false;
};
using ReadHistory =
    std::function<absl::StatusOr<History>(const std::string&, int64_t)>;

class Watch {
 public:
  // `from_seq` 0 and 1 mean from the beginning. `on_ready` as in Subscription.
  Watch(Hub& hub, ReadHistory read, std::string job_id, int64_t from_seq,
        std::function<void()> on_ready = nullptr);

  // The next event, or nothing within `timeout` (zero polls). Once finished()
  // no more come. Errors: EVENTS_OVERFLOW and those of the store.
  absl::StatusOr<std::optional<v1::Event>> Next(absl::Duration timeout);
  // True once the last event of a terminal job was handed out.
  bool finished() const { return finished_; }
  // The newest number handed out: for bookmarks.
  int64_t last_seq() const { return next_seq_ - 1; }

 private:
  absl::Status ReadPage();

  const ReadHistory read_;
  const std::string job_id_;
  int64_t next_seq_;
  bool replaying_ = true;
  // The job was terminal when page_ was read, and page_ is the last one.
  bool terminal_ = false;
  bool finished_ = false;
  std::deque<v1::Event> page_;
  std::shared_ptr<Subscription> subscription_;
};

}  // namespace quantd::events
