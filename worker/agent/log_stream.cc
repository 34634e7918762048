// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/log_stream.h"

#include "worker/agent/rpc_status.h"

namespace quantd::agent {
namespace {

constexpr size_t kPartBytes = 64 << 10;
constexpr absl::Duration kPause = absl::Seconds(1);

}  // namespace

LogStream::LogStream(const v1::Lease& lease, LogBuffer& log, ServerLink& link,
                     CallGroup& calls)
    : lease_(lease), log_(log), link_(link), calls_(calls), thread_([this] {
        Run();
        absl::MutexLock lock(&mu_);
        ended_ = true;
      }) {}

LogStream::~LogStream() {
  {
    absl::MutexLock lock(&mu_);
    leaving_ = true;
  }
  log_.Close();
  thread_.join();
}

void LogStream::CloseAndAwait(absl::Duration timeout) {
  log_.Close();
  absl::MutexLock lock(&mu_);
  mu_.AwaitWithTimeout(absl::Condition(&ended_), timeout);
}

void LogStream::Run() {
  while (!log_.drained() && !calls_.cancelled()) {
    log_.AwaitMore(kPause);
    const LogBuffer::Part part = log_.Next(kPartBytes);
    if (part.text.empty()) continue;
    v1::AppendLogRequest request;
    *request.mutable_lease() = lease_;
    request.set_offset(part.offset);
    request.set_text(part.text);
    const absl::StatusOr<v1::AppendLogResponse> response =
        link_.AppendLog(request, calls_);
    if (response.ok()) {
      log_.Acknowledge(response->size());
      continue;
    }
    // The log is the least of a lease's calls: another error than silence ends
    // it, and what the error means shows where it matters, at a commit.
    if (!IsUnanswered(response.status())) return;
    absl::MutexLock lock(&mu_);
    if (mu_.AwaitWithTimeout(absl::Condition(&leaving_), kPause)) return;
  }
}

}  // namespace quantd::agent
