// SPDX-License-Identifier: Apache-2.0
#include "server/api/watch_stream.h"

#include <atomic>
#include <memory>
#include <optional>

#include "google/protobuf/util/time_util.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "server/api/push_stream.h"

namespace quantd::api {
namespace {

class JobWatcher : public PushStream<v1::WatchJobResponse> {
 public:
  JobWatcher(Edge& edge, const v1::WatchJobRequest& request)
      : PushStream(edge, "WatchJob"), request_(request) {}

  void OnTick() override {
    bookmark_due_ = true;
    Kick();
  }

 protected:
  absl::StatusOr<std::optional<v1::WatchJobResponse>> Produce() override {
    if (watch_ == nullptr) RETURN_IF_ERROR(Open());
    ASSIGN_OR_RETURN(std::optional<v1::Event> event,
                     watch_->Next(absl::ZeroDuration()));
    v1::WatchJobResponse response;
    if (event.has_value()) {
      bookmark_due_ = false;
      *response.mutable_event() = *std::move(event);
      return response;
    }
    if (watch_->finished() || !bookmark_due_.exchange(false)) {
      return std::nullopt;
    }
    v1::Event* bookmark = response.mutable_event();
    bookmark->set_job_id(job_id_);
    *bookmark->mutable_time() =
        google::protobuf::util::TimeUtil::NanosecondsToTimestamp(
            absl::ToUnixNanos(edge_.backend().clock->Now()));
    bookmark->mutable_bookmark()->set_last_seq(watch_->last_seq());
    return response;
  }
  bool Done() const override { return watch_->finished(); }

 private:
  absl::Status Open() {
    if (request_.from_seq() < 0) {
      return base::MakeError(
          absl::StatusCode::kInvalidArgument, "FROM_SEQ_INVALID",
          "from_seq is negative; 0 means from the beginning");
    }
    ASSIGN_OR_RETURN(const v1::Job job,
                     edge_.backend().jobs->Get(request_.job_id()));
    job_id_ = job.job_id();
    // The publisher may outlive the stream by a moment.
    watch_ = edge_.backend().jobs->Watch(job_id_, request_.from_seq(),
                                         [weak = weak_from_this()] {
                                           if (auto self = weak.lock())
                                             self->Kick();
                                         });
    return absl::OkStatus();
  }

  const v1::WatchJobRequest request_;
  std::atomic<bool> bookmark_due_{false};
  // Touched by Produce alone.
  std::string job_id_;
  std::unique_ptr<events::Watch> watch_;
};

class WakeWatcher : public PushStream<v1::WakeResponse> {
 public:
  WakeWatcher(Edge& edge, const v1::WakeRequest& request)
      : PushStream(edge, "Wake"), request_(request) {}
  ~WakeWatcher() override {
    if (subscription_) {
      edge_.backend().scheduler->UnsubscribeWake(*subscription_);
    }
  }

 protected:
  absl::StatusOr<std::optional<v1::WakeResponse>> Produce() override {
    if (!subscription_) {
      // Weak: the scheduler keeps the function until the stream is gone.
      const auto weak =
          std::weak_ptr<PushStream<v1::WakeResponse>>(weak_from_this());
      ASSIGN_OR_RETURN(
          subscription_,
          edge_.backend().scheduler->SubscribeWake(request_, [weak] {
            if (auto self = weak.lock()) {
              static_cast<WakeWatcher&>(*self).Wake();
            }
          }));
    }
    if (!woken_.exchange(false)) return std::nullopt;
    return v1::WakeResponse();
  }
  bool Done() const override { return false; }

 private:
  void Wake() {
    woken_ = true;
    Kick();
  }

  const v1::WakeRequest request_;
  std::atomic<bool> woken_{false};
  // Touched by Produce and the end alone.
  std::optional<int64_t> subscription_;
};

}  // namespace

grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJobStream(
    Edge& edge, const v1::WatchJobRequest& request) {
  return std::make_shared<JobWatcher>(edge, request)->Begin();
}

grpc::ServerWriteReactor<v1::WakeResponse>* WakeStream(
    Edge& edge, const v1::WakeRequest& request) {
  return std::make_shared<WakeWatcher>(edge, request)->Begin();
}

}  // namespace quantd::api
