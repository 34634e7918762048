// SPDX-License-Identifier: Apache-2.0
// The two things a runner says: frames on its socket, and text on its standard
// output and error. One thread reads each.
#pragma once

#include <functional>
#include <thread>

#include "absl/status/status.h"
#include "quantd/v1/runner.pb.h"
#include "worker/agent/log_buffer.h"
#include "worker/agent/runner_process.h"

namespace quantd::agent {

class RunnerStreams {
 public:
  struct Handlers {
    // Every event in order. False: no further one is read.
    std::function<bool(const v1::RunnerEvent&)> on_event;
    // Once, last, unless on_event ended it: OUT_OF_RANGE where the socket was
    // closed or the process ended, DATA_LOSS where it carried something else
    // than events.
    std::function<void(const absl::Status&)> on_end;
  };
  // Begins to read; the references outlive this object.
  RunnerStreams(RunnerProcess& process, LogBuffer& log, Handlers handlers);
  // Reads what the output still holds and ends both threads. The process has
  // ended by then, and on_event does not wait for ever.
  ~RunnerStreams();

 private:
  void ReadEvents();
  void ReadOutput();

  RunnerProcess& process_;
  LogBuffer& log_;
  const Handlers handlers_;
  const int stop_fd_;
  std::thread events_;
  std::thread output_;
};

}  // namespace quantd::agent
