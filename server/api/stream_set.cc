// SPDX-License-Identifier: Apache-2.0
#include "server/api/stream_set.h"

namespace quantd::api {

StreamSet::StreamSet(absl::Duration interval)
    : interval_(interval), thread_([this] { Loop(); }) {}

StreamSet::~StreamSet() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  thread_.join();
}

void StreamSet::Add(const std::shared_ptr<Stream>& stream) {
  absl::Status closed;
  {
    absl::MutexLock lock(&mu_);
    closed = closed_;
    streams_.push_back(stream);
  }
  if (!closed.ok()) stream->Close(closed);
}

std::list<std::shared_ptr<Stream>> StreamSet::Live() {
  std::list<std::shared_ptr<Stream>> live;
  absl::MutexLock lock(&mu_);
  for (auto at = streams_.begin(); at != streams_.end();) {
    if (std::shared_ptr<Stream> stream = at->lock()) {
      live.push_back(std::move(stream));
      ++at;
    } else {
      at = streams_.erase(at);
    }
  }
  return live;
}

void StreamSet::CloseAll(const absl::Status& status) {
  {
    absl::MutexLock lock(&mu_);
    closed_ = status;
  }
  for (const auto& stream : Live()) stream->Close(status);
}

void StreamSet::Loop() {
  while (true) {
    {
      absl::MutexLock lock(&mu_);
      if (mu_.AwaitWithTimeout(absl::Condition(&stopping_), interval_)) return;
    }
    for (const auto& stream : Live()) stream->OnTick();
  }
}

}  // namespace quantd::api
