// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/step_publisher.h"

#include "proto/base/status_macros.h"
#include "worker/agent/rpc_status.h"

namespace quantd::agent {

StepPublisher::StepPublisher(const v1::Lease& lease, ServerLink& link,
                             BlobTransfer& blobs, CallGroup& calls,
                             std::function<void()> on_failure)
    : lease_(lease),
      link_(link),
      blobs_(blobs),
      calls_(calls),
      on_failure_(std::move(on_failure)),
      thread_([this] { Run(); }) {}

StepPublisher::~StepPublisher() {
  {
    absl::MutexLock lock(&mu_);
    ending_ = true;
    accepting_ = false;
  }
  thread_.join();
}

bool StepPublisher::HasRoomOrEnd() const {
  return waiting_.size() < kMaxWaitingSteps || !accepting_ || !status_.ok();
}

bool StepPublisher::IdleOrFailed() const {
  return (waiting_.empty() && !busy_) || !status_.ok();
}

bool StepPublisher::HasWorkOrEnd() const {
  return !waiting_.empty() || ending_;
}

absl::Status StepPublisher::Push(v1::StepDone step) {
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(this, &StepPublisher::HasRoomOrEnd));
  RETURN_IF_ERROR(status_);
  if (!accepting_) return absl::CancelledError("no further steps are taken");
  waiting_.push_back(std::move(step));
  return absl::OkStatus();
}

void StepPublisher::StopAccepting() {
  absl::MutexLock lock(&mu_);
  accepting_ = false;
}

absl::Status StepPublisher::Flush() {
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(this, &StepPublisher::IdleOrFailed));
  return status_;
}

absl::Status StepPublisher::status() const {
  absl::MutexLock lock(&mu_);
  return status_;
}

void StepPublisher::MoveCommittedTo(v1::StartJob& start) {
  absl::MutexLock lock(&mu_);
  start.MergeFrom(committed_);
  committed_.Clear();
}

void StepPublisher::Run() {
  for (;;) {
    v1::StepDone step;
    {
      absl::MutexLock lock(&mu_);
      mu_.Await(absl::Condition(this, &StepPublisher::HasWorkOrEnd));
      if (ending_ || !status_.ok()) return;
      step = std::move(waiting_.front());
      waiting_.pop_front();
      busy_ = true;
    }
    const absl::Status status = PublishAndCommit(step);
    {
      absl::MutexLock lock(&mu_);
      busy_ = false;
      status_ = status;
    }
    if (!status.ok()) {
      on_failure_();
      return;
    }
  }
}

absl::Status StepPublisher::PublishAndCommit(const v1::StepDone& done) {
  v1::StartJob local;
  absl::Status committed = PublishOnceAndCommit(done, local);
  if (IsBlobMissing(committed)) {
    // It went between our write and the commit, as nothing named it yet.
    local.Clear();
    committed = PublishOnceAndCommit(done, local);
  }
  RETURN_IF_ERROR(committed);
  absl::MutexLock lock(&mu_);
  committed_.MergeFrom(local);
  return absl::OkStatus();
}

absl::Status StepPublisher::PublishOnceAndCommit(const v1::StepDone& done,
                                                 v1::StartJob& local) {
  v1::CommitStepRequest request;
  *request.mutable_lease() = lease_;
  v1::Step& step = *request.mutable_step() = done.step();
  for (const auto& [role, file] : done.files()) {
    ASSIGN_OR_RETURN(const v1::BlobRef blob, blobs_.Publish(file, calls_));
    (*step.mutable_blobs())[role] = blob;
    (*local.mutable_blob_files())[blob.sha256()] = file;
  }
  *local.add_committed() = step;
  return calls_.Repeat([&] { return link_.CommitStep(request, calls_); });
}

}  // namespace quantd::agent
