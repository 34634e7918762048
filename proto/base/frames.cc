// SPDX-License-Identifier: Apache-2.0
#include "proto/base/frames.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::base {
namespace {

constexpr int kLengthBytes = 4;

absl::Status TooLarge(uint64_t length) {
  return MakeError(absl::StatusCode::kInvalidArgument, "FRAME_TOO_LARGE",
                   absl::StrCat("a frame has ", length, " bytes; at most ",
                                kMaxFrameBytes, " are allowed"));
}

// Bytes read: less than `length` only where the stream ended.
size_t ReceiveAll(int fd, char* bytes, size_t length) {
  size_t filled = 0;
  while (filled < length) {
    const ssize_t count = recv(fd, bytes + filled, length - filled, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    filled += count;
  }
  return filled;
}

absl::Status Truncated() {
  return MakeError(absl::StatusCode::kDataLoss, "FRAME_TRUNCATED",
                   "a frame ended before its announced length");
}

}  // namespace

FrameChannel::FrameChannel(int fd) : fd_(fd) {}

FrameChannel::~FrameChannel() { close(fd_); }

absl::Status FrameChannel::Write(absl::string_view frame) {
  if (frame.size() > static_cast<size_t>(kMaxFrameBytes)) {
    return TooLarge(frame.size());
  }
  char length[kLengthBytes];
  for (int i = 0; i < kLengthBytes; ++i) {
    length[i] = static_cast<char>(frame.size() >> (8 * i));
  }
  absl::MutexLock lock(&write_mu_);
  RETURN_IF_ERROR(Send(absl::string_view(length, kLengthBytes)));
  return Send(frame);
}

absl::Status FrameChannel::Send(absl::string_view bytes) {
  while (!bytes.empty()) {
    // A gone peer is an error here, never a SIGPIPE.
    const ssize_t count = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      return MakeError(absl::StatusCode::kUnavailable, "FRAME_CHANNEL_CLOSED",
                       "the other process has gone");
    }
    bytes.remove_prefix(count);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> FrameChannel::Read() {
  unsigned char header[kLengthBytes];
  const size_t got =
      ReceiveAll(fd_, reinterpret_cast<char*>(header), kLengthBytes);
  if (got == 0) return absl::OutOfRangeError("the other process has closed");
  if (got < kLengthBytes) return Truncated();
  uint64_t length = 0;
  for (int i = 0; i < kLengthBytes; ++i) {
    length |= static_cast<uint64_t>(header[i]) << (8 * i);
  }
  if (length > static_cast<uint64_t>(kMaxFrameBytes)) {
    const absl::Status error = TooLarge(length);
    return MakeError(absl::StatusCode::kDataLoss, "FRAME_TOO_LARGE",
                     error.message());
  }
  std::string frame(length, '\0');
  if (ReceiveAll(fd_, frame.data(), length) < length) return Truncated();
  return frame;
}

void FrameChannel::Shutdown() { shutdown(fd_, SHUT_RDWR); }

}  // namespace quantd::base
