// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/log_buffer.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/base/utf8.h"

namespace quantd::agent {

void LogBuffer::Append(absl::string_view bytes) {
  absl::MutexLock lock(&mu_);
  AppendPending(bytes);
  for (const char c : bytes) {
    if (c != '\n') {
      if (line_.size() < kMaxLineBytes) line_ += c;
      continue;
    }
    lines_.push_back(std::move(line_));
    line_.clear();
    if (lines_.size() > kTailLines) lines_.pop_front();
  }
}

void LogBuffer::AppendPending(absl::string_view bytes) {
  if (pending_.size() + bytes.size() > kMaxPendingBytes) {
    left_out_ += static_cast<int64_t>(bytes.size());
    return;
  }
  if (left_out_ > 0) {
    absl::StrAppend(&pending_, "[", left_out_, " bytes of log left out]\n");
    left_out_ = 0;
  }
  pending_.append(bytes.data(), bytes.size());
}

std::string LogBuffer::Tail() const {
  absl::MutexLock lock(&mu_);
  std::string tail = absl::StrJoin(lines_, "\n");
  if (!line_.empty()) absl::StrAppend(&tail, tail.empty() ? "" : "\n", line_);
  return base::ToUtf8(tail);
}

LogBuffer::Part LogBuffer::Next(size_t max_bytes) const {
  absl::MutexLock lock(&mu_);
  return {pending_offset_, pending_.substr(0, max_bytes)};
}

void LogBuffer::Acknowledge(int64_t size) {
  absl::MutexLock lock(&mu_);
  const int64_t count = std::clamp<int64_t>(
      size - pending_offset_, 0, static_cast<int64_t>(pending_.size()));
  pending_.erase(0, count);
  pending_offset_ += count;
}

bool LogBuffer::HasMoreLocked() const { return closed_ || !pending_.empty(); }

void LogBuffer::AwaitMore(absl::Duration timeout) const {
  absl::MutexLock lock(&mu_);
  mu_.AwaitWithTimeout(absl::Condition(this, &LogBuffer::HasMoreLocked),
                       timeout);
}

void LogBuffer::Close() {
  absl::MutexLock lock(&mu_);
  closed_ = true;
}

bool LogBuffer::drained() const {
  absl::MutexLock lock(&mu_);
  return closed_ && pending_.empty();
}

}  // namespace quantd::agent
