// SPDX-License-Identifier: Apache-2.0
// The way of a finished step from the runner's files to the server's database:
// blobs first, then the fenced row, one step after the other, on a thread of
// its own, so that the runner goes on meanwhile.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "quantd/v1/runner.pb.h"
#include "worker/agent/blob_transfer.h"

namespace quantd::agent {

// Steps that may wait; with more the runner waits, so that a server that is
// away does not let the disk fill up.
inline constexpr size_t kMaxWaitingSteps = 4;

// Thread-safe. The references outlive it.
class StepPublisher {
 public:
  // `on_failure` is called once, from the thread, when a step cannot be
  // committed; later ones are not tried.
  StepPublisher(const v1::Lease& lease, ServerLink& link, BlobTransfer& blobs,
                CallGroup& calls, std::function<void()> on_failure);
  ~StepPublisher();

  // Waits for room. The error of an earlier step, or CANCELLED once
  // StopAccepting was called.
  absl::Status Push(v1::StepDone step);
  void StopAccepting();
  // Waits until everything pushed is committed or an error ended it.
  absl::Status Flush();
  absl::Status status() const;

  // Adds what was committed since the last call, with the files that hold the
  // blobs on this machine.
  void MoveCommittedTo(v1::StartJob& start);

 private:
  void Run();
  // Once more from the files where the store has lost a blob meanwhile.
  absl::Status PublishAndCommit(const v1::StepDone& done);
  // Adds to `local` what the next runner needs of the step.
  absl::Status PublishOnceAndCommit(const v1::StepDone& done,
                                    v1::StartJob& local);
  bool HasRoomOrEnd() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool IdleOrFailed() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool HasWorkOrEnd() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const v1::Lease lease_;
  ServerLink& link_;
  BlobTransfer& blobs_;
  CallGroup& calls_;
  const std::function<void()> on_failure_;

  mutable absl::Mutex mu_;
  std::deque<v1::StepDone> waiting_ ABSL_GUARDED_BY(mu_);
  bool busy_ ABSL_GUARDED_BY(mu_) = false;
  bool accepting_ ABSL_GUARDED_BY(mu_) = true;
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  v1::StartJob committed_ ABSL_GUARDED_BY(mu_);

  std::thread thread_;
};

}  // namespace quantd::agent
