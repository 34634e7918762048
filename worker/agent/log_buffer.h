// SPDX-License-Identifier: Apache-2.0
// What a runner prints: the last lines for failures, and the bytes that the
// server does not have yet, by offset.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace quantd::agent {

inline constexpr int kTailLines = 200;
inline constexpr size_t kMaxLineBytes = 4096;
// Of bytes that wait for the server. What comes above it is left out and a
// line says how much that was.
inline constexpr size_t kMaxPendingBytes = 4 << 20;

// Thread-safe.
class LogBuffer {
 public:
  void Append(absl::string_view bytes);
  // The last kTailLines lines, each cut at kMaxLineBytes, as valid UTF-8.
  std::string Tail() const;

  struct Part {
    int64_t offset = 0;
    std::string text;
  };
  // What is to be sent next; empty text where nothing is.
  Part Next(size_t max_bytes) const;
  // The server has all bytes before `size`: they are forgotten here.
  void Acknowledge(int64_t size);
  // Waits until something is to be sent or the log was closed, or `timeout`.
  void AwaitMore(absl::Duration timeout) const;
  // No more bytes come.
  void Close();
  // Closed, and everything acknowledged.
  bool drained() const;

 private:
  void AppendPending(absl::string_view bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool HasMoreLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable absl::Mutex mu_;
  std::deque<std::string> lines_ ABSL_GUARDED_BY(mu_);
  std::string line_ ABSL_GUARDED_BY(mu_);
  std::string pending_ ABSL_GUARDED_BY(mu_);
  int64_t pending_offset_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t left_out_ ABSL_GUARDED_BY(mu_) = 0;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace quantd::agent
