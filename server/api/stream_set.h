// SPDX-License-Identifier: Apache-2.0
// The open streams of a server: told the time now and then, and closed together
// when the server stops.
#pragma once

#include <list>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace quantd::api {

class Stream {
 public:
  virtual ~Stream() = default;
  // Called at every interval of the set; quick.
  virtual void OnTick() = 0;
  // Ends the stream with `status` as soon as it can.
  virtual void Close(const absl::Status& status) = 0;
};

// Thread-safe.
class StreamSet {
 public:
  explicit StreamSet(absl::Duration interval);
  ~StreamSet();

  // After CloseAll, `stream` is closed at once.
  void Add(const std::shared_ptr<Stream>& stream);
  void CloseAll(const absl::Status& status);

 private:
  void Loop();
  std::list<std::shared_ptr<Stream>> Live();

  const absl::Duration interval_;
  absl::Mutex mu_;
  // Streams own themselves until gRPC is done with them.
  std::list<std::weak_ptr<Stream>> streams_ ABSL_GUARDED_BY(mu_);
  absl::Status closed_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace quantd::api
