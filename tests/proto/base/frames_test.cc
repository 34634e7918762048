// SPDX-License-Identifier: Apache-2.0
#include "proto/base/frames.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"

namespace quantd::base {
namespace {

class FramesTest : public testing::Test {
 protected:
  FramesTest() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    channel_ = std::make_unique<FrameChannel>(fds[0]);
    peer_ = fds[1];
  }
  ~FramesTest() override { ClosePeer(); }

  void SendRaw(const std::string& bytes) {
    ASSERT_EQ(write(peer_, bytes.data(), bytes.size()),
              static_cast<ssize_t>(bytes.size()));
  }
  void ClosePeer() {
    if (peer_ >= 0) close(peer_);
    peer_ = -1;
  }

  std::unique_ptr<FrameChannel> channel_;
  int peer_ = -1;
};

TEST_F(FramesTest, LengthIsFourBytesLittleEndian) {
  ASSERT_TRUE(channel_->Write(std::string(258, 'x')).ok());
  std::string bytes(262, '\0');
  ASSERT_EQ(recv(peer_, bytes.data(), bytes.size(), MSG_WAITALL), 262);
  EXPECT_EQ(bytes.substr(0, 4), std::string("\x02\x01\x00\x00", 4));
}

TEST_F(FramesTest, ReadsFramesInOrderAndEmptyOnes) {
  SendRaw(std::string("\x03\0\0\0abc\0\0\0\0\x01\0\0\0z", 16));
  EXPECT_EQ(*channel_->Read(), "abc");
  EXPECT_EQ(*channel_->Read(), "");
  EXPECT_EQ(*channel_->Read(), "z");
}

TEST_F(FramesTest, EndBetweenFramesIsOutOfRange) {
  ClosePeer();
  EXPECT_EQ(channel_->Read().status().code(), absl::StatusCode::kOutOfRange);
}

TEST_F(FramesTest, EveryTruncationIsDataLoss) {
  const std::string whole("\x05\0\0\0hello", 9);
  for (size_t length = 1; length < whole.size(); ++length) {
    int fds[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    FrameChannel channel(fds[0]);
    ASSERT_EQ(write(fds[1], whole.data(), length),
              static_cast<ssize_t>(length));
    close(fds[1]);
    const absl::Status status = channel.Read().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << length;
    EXPECT_EQ(ErrorReason(status), "FRAME_TRUNCATED") << length;
  }
}

TEST_F(FramesTest, LengthAboveTheLimitIsRefusedBeforeItsBytesCome) {
  // 64 MiB + 1; nothing follows, so a reader that waited would hang.
  SendRaw(std::string("\x01\0\0\x04", 4));
  const absl::Status status = channel_->Read().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ErrorReason(status), "FRAME_TOO_LARGE");
}

TEST_F(FramesTest, GarbageThatLooksLikeALengthIsRefused) {
  SendRaw("GET / HTTP/1.1\r\n\r\n");
  EXPECT_EQ(ErrorReason(channel_->Read().status()), "FRAME_TOO_LARGE");
}

TEST_F(FramesTest, WritingTooMuchIsRefusedAndLeavesTheChannelUsable) {
  EXPECT_EQ(ErrorReason(channel_->Write(std::string(kMaxFrameBytes + 1, 'x'))),
            "FRAME_TOO_LARGE");
  ASSERT_TRUE(channel_->Write("ok").ok());
  char bytes[6];
  ASSERT_EQ(recv(peer_, bytes, 6, MSG_WAITALL), 6);
  EXPECT_EQ(std::string(bytes, 6), std::string("\x02\0\0\0ok", 6));
}

TEST_F(FramesTest, WritingToAGonePeerIsAnErrorAndNoSignal) {
  ClosePeer();
  EXPECT_EQ(ErrorReason(channel_->Write("x")), "FRAME_CHANNEL_CLOSED");
}

TEST_F(FramesTest, ShutdownWakesAWaitingReader) {
  std::thread reader([&] {
    EXPECT_EQ(channel_->Read().status().code(), absl::StatusCode::kOutOfRange);
  });
  channel_->Shutdown();
  reader.join();
}

TEST_F(FramesTest, FramesOfManyWritersDoNotMix) {
  FrameChannel reader(dup(peer_));
  constexpr int kWriters = 4;
  constexpr int kFrames = 200;
  std::vector<std::thread> writers;
  for (int w = 0; w < kWriters; ++w) {
    writers.emplace_back([&, w] {
      for (int i = 0; i < kFrames; ++i) {
        const std::string frame(1000 + 10 * i, static_cast<char>('a' + w));
        EXPECT_TRUE(channel_->Write(frame).ok());
      }
    });
  }
  for (int i = 0; i < kWriters * kFrames; ++i) {
    const absl::StatusOr<std::string> frame = reader.Read();
    ASSERT_TRUE(frame.ok());
    const std::set<char> letters(frame->begin(), frame->end());
    EXPECT_EQ(letters.size(), 1u);
  }
  for (std::thread& writer : writers) writer.join();
}

}  // namespace
}  // namespace quantd::base
