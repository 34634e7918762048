// SPDX-License-Identifier: Apache-2.0
// Messages over a socket pair: a 4-byte little-endian length, then that many
// bytes. Both ends of the link between a worker's agent and its runner use it.
// It does not know what the bytes mean.
#pragma once

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace quantd::base {

inline constexpr int64_t kMaxFrameBytes = int64_t{64} << 20;

// One end. Any number of threads may write; one thread at a time reads.
class FrameChannel {
 public:
  // Takes over `fd`, a connected stream socket, and closes it at the end.
  explicit FrameChannel(int fd);
  ~FrameChannel();
  FrameChannel(const FrameChannel&) = delete;
  FrameChannel& operator=(const FrameChannel&) = delete;

  // Returns once the bytes are in the socket; waits while it is full.
  // INVALID_ARGUMENT (FRAME_TOO_LARGE) above kMaxFrameBytes, UNAVAILABLE
  // (FRAME_CHANNEL_CLOSED) when the other end is gone.
  absl::Status Write(absl::string_view frame);

  // The next frame. OUT_OF_RANGE when the other end closed between frames,
  // DATA_LOSS (FRAME_TRUNCATED, FRAME_TOO_LARGE) when it broke the rules. A
  // length is checked before anything is allocated for it.
  absl::StatusOr<std::string> Read();

  // Ends both directions and wakes up a waiting reader; the object stays valid.
  void Shutdown();

 private:
  absl::Status Send(absl::string_view bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mu_);

  const int fd_;
  // Held for the whole of a frame, so that frames do not mix.
  absl::Mutex write_mu_;
};

}  // namespace quantd::base
