// SPDX-License-Identifier: Apache-2.0
// Counts what happens to jobs from their events, in commit order. Durations are
// those this process has seen: a job granted before a restart has none.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "quantd/v1/event.pb.h"
#include "server/metrics/metrics.h"

namespace quantd::metrics {

// Thread-safe.
class JobObserver {
 public:
  // `metrics` outlives the object.
  explicit JobObserver(Metrics& metrics) : metrics_(metrics) {}

  void OnEvents(const std::vector<v1::Event>& events);

 private:
  struct Times {
    std::optional<absl::Time> queued;
    std::optional<absl::Time> granted;
    std::optional<absl::Time> cancelling;
  };
  void OnStateChanged(const v1::Event& event);
  void OnAttemptEnded(const v1::StateChanged& change, absl::Time now,
                      Times* times);

  Metrics& metrics_;
  absl::Mutex mu_;
  std::map<std::string, Times> live_ ABSL_GUARDED_BY(mu_);
};

}  // namespace quantd::metrics
