// SPDX-License-Identifier: Apache-2.0
// The resuming event stream. A break is any end other than the server's OK or a
// refusal; the stream is then asked for again from the first event not yet
// handed over, so that nothing is missed and nothing comes twice.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/rpc/client.h"
#include "client/rpc/grpc_status.h"
#include "client/rpc/stubs.h"
#include "proto/base/error.h"

namespace quantd::rpc {
namespace {

constexpr int kMaxGaps = 3;

bool IsBreak(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    // A server that stops cancels its streams; a proxy or a reset connection
    // ends them with UNKNOWN or INTERNAL.
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kAborted:
    // A watcher that fell behind is dropped and may come back.
    case absl::StatusCode::kResourceExhausted:
      return true;
    default:
      return false;
  }
}

struct StreamEnd {
  absl::Status status;
  bool any_event = false;
  bool gap = false;
};

// One stream, from *next_seq on; *next_seq follows what was handed over.
StreamEnd ReadOnce(v1::JobService::Stub& stub, const WatchOptions& options,
                   int64_t* next_seq,
                   const std::function<void(const v1::Event&)>& on_event) {
  grpc::ClientContext context;
  SetDeadline(context, options.deadline);
  v1::WatchJobRequest request;
  request.set_job_id(options.job_id);
  request.set_from_seq(*next_seq);
  auto reader = stub.WatchJob(&context, request);
  StreamEnd end;
  v1::WatchJobResponse response;
  while (reader->Read(&response)) {
    end.any_event = true;
    const v1::Event& event = response.event();
    if (event.seq() > *next_seq) {
      end.gap = true;
      context.TryCancel();
      break;
    }
    if (event.seq() != 0 && event.seq() < *next_seq) continue;
    if (event.seq() != 0) ++*next_seq;
    on_event(event);
  }
  end.status = FromGrpcStatus(reader->Finish());
  return end;
}

absl::Status GapError(int64_t seq) {
  return base::MakeError(
      absl::StatusCode::kDataLoss, "EVENT_GAP",
      absl::StrCat("the server skips event ", seq,
                   " of this job; `qctl get` still shows its state"),
      {{"seq", absl::StrCat(seq)}});
}

}  // namespace

absl::Status Client::WatchJob(
    const WatchOptions& options,
    const std::function<void(const v1::Event&)>& on_event) {
  Backoff backoff(options_.backoff);
  int64_t next_seq = std::max<int64_t>(1, options.from_seq);
  int gaps = 0;
  absl::Time give_up = absl::Now() + options_.reconnect_limit;
  for (;;) {
    const int64_t before = next_seq;
    const StreamEnd end = ReadOnce(*stubs_->jobs, options, &next_seq, on_event);
    if (end.status.ok()) return end.status;
    gaps = next_seq > before ? 0 : gaps;
    if (end.gap && ++gaps >= kMaxGaps) return GapError(next_seq);
    if (!end.gap && !IsBreak(end.status)) return end.status;
    if (end.any_event) {
      backoff.Reset();
      give_up = absl::Now() + options_.reconnect_limit;
    }
    const absl::Duration delay = backoff.Next();
    if (absl::Now() + delay > give_up) {
      return absl::Status(absl::StatusCode::kUnavailable, end.status.message());
    }
    if (absl::Now() + delay > options.deadline) {
      return absl::DeadlineExceededError("the time given by --timeout is over");
    }
    WaitToRetry(end.status, delay);
  }
}

}  // namespace quantd::rpc
