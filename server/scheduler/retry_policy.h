// SPDX-License-Identifier: Apache-2.0
// What follows when an attempt ends: the one place that decides about retries.
// Thread-safe.
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "quantd/v1/job.pb.h"
#include "server/store/records.h"

namespace quantd::scheduler {

enum class FailureClass {
  // The attempt succeeded.
  kNone,
  kInvalid,
  kResource,
  kNumeric,
  kTransient,
  kLost,
  kDrained,
  kInternal,
};

// A word that is no class means kInternal: nothing unknown is retried.
FailureClass ParseFailureClass(absl::string_view word);

class RetryPolicy {
 public:
  explicit RetryPolicy(uint64_t seed);

  // `job` is the record while the lease was still held.
  store::Outcome Decide(const store::JobRecord& job,
                        const v1::Failure& failure);

 private:
  // 15 s * 2^(failures - 1), at most 15 minutes, plus or minus 20 %.
  absl::Duration Backoff(int32_t failures);
  void DecideResource(const store::JobRecord& job, store::Outcome& outcome);
  void DecideTransient(store::Outcome& outcome);

  absl::Mutex mu_;
  std::mt19937_64 random_ ABSL_GUARDED_BY(mu_);
};

}  // namespace quantd::scheduler
