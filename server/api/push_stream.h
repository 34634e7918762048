// SPDX-License-Identifier: Apache-2.0
// A server stream that is fed by whoever calls Kick: one message at a time is
// produced on the executor and written; nothing of it ever blocks a thread of
// gRPC. The object owns itself from Begin until gRPC is done with it.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/grpcpp.h"
#include "proto/base/error.h"
#include "server/api/edge.h"
#include "server/api/grpc_status.h"
#include "server/api/stream_set.h"

namespace quantd::api {

template <typename Response>
class PushStream : public grpc::ServerWriteReactor<Response>,
                   public Stream,
                   public std::enable_shared_from_this<PushStream<Response>> {
 public:
  // `method` is the label in metrics; `edge` outlives the stream.
  PushStream(Edge& edge, const char* method) : edge_(edge), method_(method) {}

  // Call once, after construction by make_shared; returns the reactor.
  grpc::ServerWriteReactor<Response>* Begin() {
    self_ = this->shared_from_this();
    edge_.streams().Add(self_);
    Kick();
    return this;
  }

  // There may be something to produce. From any thread.
  void Kick() {
    {
      absl::MutexLock lock(&mu_);
      if (finished_) return;
      again_ = busy_;
      if (std::exchange(busy_, true)) return;
    }
    edge_.executor().Run([self = this->shared_from_this()] { self->Step(); });
  }

  void Close(const absl::Status& status) override {
    {
      absl::MutexLock lock(&mu_);
      if (closing_.ok()) closing_ = status;
    }
    Kick();
  }
  void OnTick() override {}

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mu_);
      busy_ = false;
    }
    if (ok) {
      Kick();
    } else {
      OnCancel();
    }
  }
  void OnCancel() override {
    Close(base::MakeError(absl::StatusCode::kCancelled, "CALL_CANCELLED",
                          "the caller has gone"));
  }
  void OnDone() override {
    // The last use of the object may be on another thread, which then has a
    // reference of its own.
    std::shared_ptr<PushStream> self = std::move(self_);
  }

 protected:
  // The next message, or nothing for now. On one executor thread at a time;
  // may block.
  virtual absl::StatusOr<std::optional<Response>> Produce() = 0;
  // True where nothing will follow: asked when Produce had nothing.
  virtual bool Done() const = 0;

  Edge& edge_;

 private:
  void Step() {
    absl::Status end = Closing();
    if (end.ok()) {
      absl::StatusOr<std::optional<Response>> next = Produce();
      if (next.ok() && next->has_value()) {
        response_ = *std::move(*next);
        this->StartWrite(&response_);
        return;
      }
      end = next.status();
      if (end.ok() && !Done()) {
        Rest();
        return;
      }
    }
    {
      absl::MutexLock lock(&mu_);
      finished_ = true;
    }
    edge_.Count(method_, end);
    this->Finish(ToGrpcStatus(end));
  }

  absl::Status Closing() {
    absl::MutexLock lock(&mu_);
    return closing_;
  }

  // Nothing to do, unless somebody kicked meanwhile.
  void Rest() {
    bool again;
    {
      absl::MutexLock lock(&mu_);
      busy_ = false;
      again = std::exchange(again_, false);
    }
    if (again) Kick();
  }

  const char* const method_;
  // Touched by Begin and OnDone alone.
  std::shared_ptr<PushStream> self_;
  // Touched by the one running Step.
  Response response_;
  absl::Mutex mu_;
  // A Step is queued or running, or a write is on its way.
  bool busy_ ABSL_GUARDED_BY(mu_) = false;
  bool again_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status closing_ ABSL_GUARDED_BY(mu_);
};

}  // namespace quantd::api
