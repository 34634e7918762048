// SPDX-License-Identifier: Apache-2.0
#include "server/events/watch.h"

#include <algorithm>
#include <utility>

#include "proto/base/status_macros.h"

namespace quantd::events {
namespace {

bool IsTerminal(const v1::Event& event) {
  if (!event.has_state_changed()) return false;
  const v1::JobState to = event.state_changed().to();
  return to == v1::JOB_STATE_SUCCEEDED || to == v1::JOB_STATE_FAILED ||
         to == v1::JOB_STATE_CANCELLED;
}

}  // namespace

Watch::Watch(Hub& hub, ReadHistory read, std::string job_id, int64_t from_seq,
             std::function<void()> on_ready)
    : read_(std::move(read)),
      job_id_(std::move(job_id)),
      next_seq_(std::max<int64_t>(from_seq, 1)),
      // Before any history is read: nothing falls between the two.
      subscription_(hub.Subscribe(job_id_, std::move(on_ready))) {}

absl::StatusOr<std::optional<v1::Event>> Watch::Next(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (!finished_) {
    if (page_.empty() && replaying_) {
      RETURN_IF_ERROR(ReadPage());
      continue;
    }
    std::optional<v1::Event> event;
    if (!page_.empty()) {
      event = std::move(page_.front());
      page_.pop_front();
    } else {
      ASSIGN_OR_RETURN(event, subscription_->Next(deadline - absl::Now()));
      if (!event.has_value()) return std::optional<v1::Event>();
      if (event->seq() == 0) return event;
      if (event->seq() < next_seq_) continue;
      // A terminal job may be queued again: the store has the last word.
      if (IsTerminal(*event)) {
        replaying_ = true;
        continue;
      }
    }
    next_seq_ = event->seq() + 1;
    if (page_.empty() && terminal_) finished_ = true;
    return event;
  }
  return std::optional<v1::Event>();
}

absl::Status Watch::ReadPage() {
  ASSIGN_OR_RETURN(History history, read_(job_id_, next_seq_));
  page_.assign(std::make_move_iterator(history.events.begin()),
               std::make_move_iterator(history.events.end()));
  const int64_t read_up_to = page_.empty() ? next_seq_ - 1 : page_.back().seq();
  replaying_ = read_up_to < history.last_seq;
  terminal_ = history.terminal && !replaying_;
  if (page_.empty() && terminal_) finished_ = true;
  return absl::OkStatus();
}

}  // namespace quantd::events
