// SPDX-License-Identifier: Apache-2.0
#include "client/rpc/client.h"

#include <utility>

#include "absl/time/clock.h"
#include "client/rpc/grpc_status.h"
#include "client/rpc/stubs.h"
#include "google/rpc/error_details.pb.h"
#include "proto/base/status_macros.h"

namespace quantd::rpc {
namespace {

constexpr char kRetryInfoUrl[] = "type.googleapis.com/google.rpc.RetryInfo";

// The delay the server asked for, where it did; else zero.
absl::Duration RequestedDelay(const absl::Status& status) {
  google::rpc::RetryInfo info;
  const auto payload = status.GetPayload(kRetryInfoUrl);
  if (!payload || !info.ParseFromString(std::string(*payload))) {
    return absl::ZeroDuration();
  }
  return absl::Seconds(info.retry_delay().seconds()) +
         absl::Nanoseconds(info.retry_delay().nanos());
}

}  // namespace

Client::Client(ClientOptions options)
    : options_(std::move(options)),
      stubs_(std::make_unique<Stubs>(MakeChannel(options_.server))) {}

Client::~Client() = default;

void Client::WaitToRetry(const absl::Status& error,
                         absl::Duration delay) const {
  if (options_.on_retry) options_.on_retry(error, delay);
  absl::SleepFor(delay);
}

template <typename Stub, typename Method, typename Request, typename Response>
absl::Status Client::Call(Stub& stub, Method method, const Request& request,
                          Response* response) {
  Backoff backoff(options_.backoff);
  for (int attempt = 1;; ++attempt) {
    grpc::ClientContext context;
    SetDeadline(context, absl::Now() + options_.call_timeout);
    const absl::Status status =
        FromGrpcStatus((stub.*method)(&context, request, response));
    if (!absl::IsUnavailable(status) ||
        attempt >= options_.backoff.max_attempts) {
      return status;
    }
    WaitToRetry(status,
                std::max(backoff.Next(), std::min(RequestedDelay(status),
                                                  options_.backoff.max_delay)));
  }
}

absl::StatusOr<v1::SubmitJobResponse> Client::SubmitJob(
    const v1::SubmitJobRequest& request) {
  v1::SubmitJobResponse response;
  RETURN_IF_ERROR(Call(*stubs_->jobs, &v1::JobService::Stub::SubmitJob, request,
                       &response));
  return response;
}

absl::StatusOr<v1::Job> Client::GetJob(const std::string& job_id) {
  v1::GetJobRequest request;
  request.set_job_id(job_id);
  v1::GetJobResponse response;
  RETURN_IF_ERROR(
      Call(*stubs_->jobs, &v1::JobService::Stub::GetJob, request, &response));
  return std::move(*response.mutable_job());
}

absl::StatusOr<v1::ListJobsResponse> Client::ListJobs(
    const v1::ListJobsRequest& request) {
  v1::ListJobsResponse response;
  RETURN_IF_ERROR(
      Call(*stubs_->jobs, &v1::JobService::Stub::ListJobs, request, &response));
  return response;
}

absl::StatusOr<v1::Job> Client::CancelJob(const std::string& job_id) {
  v1::CancelJobRequest request;
  request.set_job_id(job_id);
  v1::CancelJobResponse response;
  RETURN_IF_ERROR(Call(*stubs_->jobs, &v1::JobService::Stub::CancelJob, request,
                       &response));
  return std::move(*response.mutable_job());
}

absl::StatusOr<v1::Job> Client::RetryJob(const std::string& job_id) {
  v1::RetryJobRequest request;
  request.set_job_id(job_id);
  v1::RetryJobResponse response;
  RETURN_IF_ERROR(
      Call(*stubs_->jobs, &v1::JobService::Stub::RetryJob, request, &response));
  return std::move(*response.mutable_job());
}

absl::StatusOr<v1::ExplainJobResponse> Client::ExplainJob(
    const std::string& job_id) {
  v1::ExplainJobRequest request;
  request.set_job_id(job_id);
  v1::ExplainJobResponse response;
  RETURN_IF_ERROR(Call(*stubs_->jobs, &v1::JobService::Stub::ExplainJob,
                       request, &response));
  return response;
}

absl::StatusOr<v1::ReadJobLogResponse> Client::ReadJobLog(
    const v1::ReadJobLogRequest& request) {
  v1::ReadJobLogResponse response;
  RETURN_IF_ERROR(Call(*stubs_->jobs, &v1::JobService::Stub::ReadJobLog,
                       request, &response));
  return response;
}

absl::StatusOr<v1::Artifact> Client::GetArtifact(
    const std::string& artifact_id) {
  v1::GetArtifactRequest request;
  request.set_artifact_id(artifact_id);
  v1::GetArtifactResponse response;
  RETURN_IF_ERROR(Call(*stubs_->artifacts,
                       &v1::ArtifactService::Stub::GetArtifact, request,
                       &response));
  return std::move(*response.mutable_artifact());
}

absl::StatusOr<v1::ListArtifactsResponse> Client::ListArtifacts(
    const v1::ListArtifactsRequest& request) {
  v1::ListArtifactsResponse response;
  RETURN_IF_ERROR(Call(*stubs_->artifacts,
                       &v1::ArtifactService::Stub::ListArtifacts, request,
                       &response));
  return response;
}

absl::StatusOr<v1::Catalog> Client::GetCatalog() {
  v1::GetCatalogResponse response;
  RETURN_IF_ERROR(Call(*stubs_->catalog, &v1::CatalogService::Stub::GetCatalog,
                       v1::GetCatalogRequest(), &response));
  return std::move(*response.mutable_catalog());
}

absl::StatusOr<v1::Catalog> Client::AwaitCatalog(absl::Duration limit) {
  constexpr absl::Duration kPoll = absl::Milliseconds(100);
  const absl::Time deadline = absl::Now() + limit;
  for (;;) {
    absl::StatusOr<v1::Catalog> catalog = GetCatalog();
    if (!absl::IsNotFound(catalog.status()) || absl::Now() > deadline) {
      return catalog;
    }
    absl::SleepFor(kPoll);
  }
}

absl::StatusOr<v1::GetServerStatusResponse> Client::GetServerStatus() {
  v1::GetServerStatusResponse response;
  RETURN_IF_ERROR(Call(*stubs_->server,
                       &v1::ServerService::Stub::GetServerStatus,
                       v1::GetServerStatusRequest(), &response));
  return response;
}

absl::StatusOr<v1::ListWorkersResponse> Client::ListWorkers() {
  v1::ListWorkersResponse response;
  RETURN_IF_ERROR(Call(*stubs_->server, &v1::ServerService::Stub::ListWorkers,
                       v1::ListWorkersRequest(), &response));
  return response;
}

}  // namespace quantd::rpc
