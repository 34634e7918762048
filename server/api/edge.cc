// SPDX-License-Identifier: Apache-2.0
#include "server/api/edge.h"

#include <exception>
#include <utility>

#include "absl/time/clock.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "server/api/grpc_status.h"

namespace quantd::api {
namespace {

constexpr char kLeaseLost[] = "LEASE_LOST";

}  // namespace

Edge::Edge(Backend backend, std::string page_key, Options options)
    : backend_(std::move(backend)),
      page_tokens_(std::move(page_key)),
      start_time_(backend_.clock->Now()),
      executor_(options.num_threads, options.max_queued),
      streams_(options.bookmark_interval) {}

void Edge::Count(const char* method, const absl::Status& status) {
  backend_.metrics->Increment(
      metrics::kRpcHandled, {method, absl::StatusCodeToString(status.code())});
  if (base::ErrorReason(status) == kLeaseLost) {
    backend_.metrics->Increment(metrics::kFencedWrites, {method});
  }
}

absl::Status Edge::Guarded(grpc::CallbackServerContext* context,
                           absl::Time admitted,
                           const std::function<absl::Status()>& body) {
  if (context->IsCancelled()) {
    return base::MakeError(absl::StatusCode::kCancelled, "CALL_CANCELLED",
                           "the caller has gone");
  }
  if (absl::Now() - admitted > kMaxUnaryTime) {
    return base::MakeError(absl::StatusCode::kDeadlineExceeded, "CALL_TOO_OLD",
                           "the call waited too long to be started");
  }
  // Libraries below may throw; here, at the edge, that becomes an answer.
  try {
    return body();
  } catch (const std::exception& e) {
    return absl::InternalError(e.what());
  }
}

grpc::ServerUnaryReactor* Edge::Unary(grpc::CallbackServerContext* context,
                                      const char* method,
                                      std::function<absl::Status()> body) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Time admitted = absl::Now();
  const bool accepted = executor_.TryRun(
      [this, context, method, reactor, admitted, body = std::move(body)] {
        const absl::Status status = Guarded(context, admitted, body);
        Count(method, status);
        backend_.metrics->Observe(metrics::kRpcHandling,
                                  absl::ToDoubleSeconds(absl::Now() - admitted),
                                  {method});
        reactor->Finish(ToGrpcStatus(status));
      });
  if (!accepted) {
    const absl::Status busy =
        base::MakeError(absl::StatusCode::kUnavailable, "SERVER_BUSY",
                        "too many calls are waiting; try again");
    Count(method, busy);
    reactor->Finish(ToGrpcStatus(busy));
  }
  return reactor;
}

absl::StatusOr<std::shared_ptr<const v1::Catalog>> Edge::Catalog() {
  int64_t registrations;
  {
    absl::MutexLock lock(&mu_);
    if (catalog_ != nullptr) return catalog_;
    registrations = registrations_;
  }
  ASSIGN_OR_RETURN(v1::Catalog catalog, backend_.store->GetCatalog());
  auto shared = std::make_shared<const v1::Catalog>(std::move(catalog));
  absl::MutexLock lock(&mu_);
  if (registrations == registrations_) catalog_ = shared;
  return shared;
}

void Edge::ForgetCatalog() {
  absl::MutexLock lock(&mu_);
  catalog_ = nullptr;
  ++registrations_;
}

}  // namespace quantd::api
