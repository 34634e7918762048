// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/runner_streams.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "proto/base/error.h"

namespace quantd::agent {
namespace {

absl::Status NotAnEvent() {
  return base::MakeError(absl::StatusCode::kDataLoss, "RUNNER_PROTOCOL_BROKEN",
                         "the runner sent a frame that is no event");
}

// Moves what is there from `fd` to `log`. False at the end of the stream.
bool Drain(int fd, LogBuffer& log) {
  std::array<char, 16384> part;
  for (;;) {
    const ssize_t count = read(fd, part.data(), part.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno == EAGAIN;
    if (count == 0) return false;
    log.Append(absl::string_view(part.data(), count));
  }
}

}  // namespace

RunnerStreams::RunnerStreams(RunnerProcess& process, LogBuffer& log,
                             Handlers handlers)
    : process_(process),
      log_(log),
      handlers_(std::move(handlers)),
      stop_fd_(eventfd(0, EFD_CLOEXEC)),
      events_([this] { ReadEvents(); }),
      output_([this] { ReadOutput(); }) {}

RunnerStreams::~RunnerStreams() {
  process_.channel().Shutdown();
  eventfd_write(stop_fd_, 1);
  events_.join();
  output_.join();
  close(stop_fd_);
}

void RunnerStreams::ReadEvents() {
  for (;;) {
    const absl::StatusOr<std::string> frame = process_.channel().Read();
    if (!frame.ok()) return handlers_.on_end(frame.status());
    v1::RunnerEvent event;
    if (!event.ParseFromString(*frame) ||
        event.kind_case() == v1::RunnerEvent::KIND_NOT_SET) {
      return handlers_.on_end(NotAnEvent());
    }
    if (!handlers_.on_event(event)) return;
  }
}

void RunnerStreams::ReadOutput() {
  // A process that left the runner's group may hold the pipe open for ever, so
  // that its end cannot be waited for alone.
  std::array<pollfd, 3> fds = {{{process_.output_fd(), POLLIN, 0},
                                {stop_fd_, POLLIN, 0},
                                {process_.pid_fd(), POLLIN, 0}}};
  for (;;) {
    if (poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) return;
    if (!Drain(process_.output_fd(), log_)) fds[0].fd = -1;
    if (fds[1].revents != 0) return;
    if (fds[2].revents != 0) {
      // Its children may hold the socket open. What is in it can still be read.
      process_.channel().Shutdown();
      fds[2].fd = -1;
    }
  }
}

}  // namespace quantd::agent
