// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/catalog_rules.h"
#include "proto/spec/filter.h"
#include "proto/spec/tag.h"
#include "quantd/v1/services.grpc.pb.h"
#include "server/api/paging.h"
#include "server/api/services.h"
#include "server/api/watch_stream.h"

namespace quantd::api {
namespace {

using Context = grpc::CallbackServerContext;

constexpr size_t kMaxRequestIdBytes = 64;

absl::Status CheckRequestId(const std::string& id) {
  if (id.size() <= kMaxRequestIdBytes &&
      std::all_of(id.begin(), id.end(), [](char c) {
        return absl::ascii_isgraph(static_cast<unsigned char>(c));
      })) {
    return absl::OkStatus();
  }
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "REQUEST_ID_INVALID",
      absl::StrCat("a request id has at most ", kMaxRequestIdBytes,
                   " printable characters; a UUID is best"));
}

store::FilterTerm::Field ToStoreField(spec::FilterTerm::Field field) {
  using From = spec::FilterTerm::Field;
  using To = store::FilterTerm::Field;
  switch (field) {
    case From::kState:
      return To::kState;
    case From::kKind:
      return To::kKind;
    case From::kMethod:
      return To::kMethod;
    case From::kModel:
      return To::kModel;
    case From::kWorker:
      return To::kWorker;
    case From::kName:
      return To::kName;
    case From::kLabel:
      return To::kLabel;
  }
  return To::kState;
}

store::JobFilter ToStoreFilter(const spec::FilterClauses& clauses) {
  store::JobFilter filter;
  for (const auto& clause : clauses) {
    auto& terms = filter.emplace_back();
    for (const spec::FilterTerm& term : clause) {
      terms.push_back(
          {ToStoreField(term.field), term.negated, term.label_key, term.value});
    }
  }
  return filter;
}

class JobServiceImpl : public v1::JobService::CallbackService {
 public:
  explicit JobServiceImpl(Edge& edge) : edge_(edge) {}

  grpc::ServerUnaryReactor* SubmitJob(
      Context* context, const v1::SubmitJobRequest* request,
      v1::SubmitJobResponse* response) override {
    return edge_.Unary(context, "SubmitJob",
                       [=, this] { return Submit(*request, response); });
  }

  grpc::ServerUnaryReactor* GetJob(Context* context,
                                   const v1::GetJobRequest* request,
                                   v1::GetJobResponse* response) override {
    return edge_.Unary(context, "GetJob", [=, this]() -> absl::Status {
      RETURN_IF_ERROR(
          Assign(jobs().Get(request->job_id()), response->mutable_job()));
      SetWaitReason(response->mutable_job());
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* ListJobs(Context* context,
                                     const v1::ListJobsRequest* request,
                                     v1::ListJobsResponse* response) override {
    return edge_.Unary(context, "ListJobs",
                       [=, this] { return List(*request, response); });
  }

  grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJob(
      Context*, const v1::WatchJobRequest* request) override {
    return WatchJobStream(edge_, *request);
  }

  grpc::ServerUnaryReactor* CancelJob(
      Context* context, const v1::CancelJobRequest* request,
      v1::CancelJobResponse* response) override {
    return edge_.Unary(context, "CancelJob", [=, this] {
      return Assign(jobs().Cancel(request->job_id()), response->mutable_job());
    });
  }

  grpc::ServerUnaryReactor* RetryJob(Context* context,
                                     const v1::RetryJobRequest* request,
                                     v1::RetryJobResponse* response) override {
    return edge_.Unary(context, "RetryJob", [=, this] {
      return Assign(jobs().Retry(request->job_id()), response->mutable_job());
    });
  }

  grpc::ServerUnaryReactor* ExplainJob(
      Context* context, const v1::ExplainJobRequest* request,
      v1::ExplainJobResponse* response) override {
    return edge_.Unary(context, "ExplainJob", [=, this] {
      return Assign(edge_.backend().scheduler->Explain(request->job_id()),
                    response);
    });
  }

  grpc::ServerUnaryReactor* ReadJobLog(
      Context* context, const v1::ReadJobLogRequest* request,
      v1::ReadJobLogResponse* response) override {
    return edge_.Unary(context, "ReadJobLog", [=, this] {
      return Assign(jobs().ReadLog(*request), response);
    });
  }

 private:
  jobs::Jobs& jobs() { return *edge_.backend().jobs; }

  void SetWaitReason(v1::Job* job) {
    if (job->state() != v1::JOB_STATE_QUEUED) return;
    job->set_pending_reason(edge_.backend().scheduler->WaitReason(job->spec()));
  }

  absl::Status Validate(const v1::JobSpec& spec) {
    ASSIGN_OR_RETURN(const auto catalog, edge_.Catalog());
    const absl::Status status = spec::ValidateJob(spec, *catalog);
    if (!status.ok()) {
      edge_.backend().metrics->Increment(metrics::kInputRejected,
                                         {base::ErrorReason(status)});
    }
    return status;
  }

  absl::Status Submit(const v1::SubmitJobRequest& request,
                      v1::SubmitJobResponse* response) {
    RETURN_IF_ERROR(CheckRequestId(request.request_id()));
    RETURN_IF_ERROR(Validate(request.spec()));
    const std::string name = spec::DisplayName(request.spec());
    if (request.validate_only()) {
      *response->mutable_job()->mutable_spec() = request.spec();
      response->mutable_job()->set_display_name(name);
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(Assign(jobs().Submit(request, name), response));
    if (!response->existed()) {
      edge_.backend().metrics->Increment(
          metrics::kJobSubmitted,
          {request.spec().has_quantize() ? "quantize" : "evaluate"});
    }
    return absl::OkStatus();
  }

  absl::Status List(const v1::ListJobsRequest& request,
                    v1::ListJobsResponse* response) {
    ASSIGN_OR_RETURN(const int32_t size, PageSize(request.page_size()));
    ASSIGN_OR_RETURN(const spec::FilterClauses filter,
                     spec::ParseFilter(request.filter()));
    const std::string arguments =
        absl::StrCat("ListJobs|", spec::FilterText(filter));
    ASSIGN_OR_RETURN(
        const int64_t before,
        PageStart(edge_.page_tokens(), request.page_token(), arguments));
    ASSIGN_OR_RETURN(jobs::JobList page,
                     jobs().List(ToStoreFilter(filter), before, size));
    response->mutable_jobs()->Assign(page.jobs.begin(), page.jobs.end());
    for (v1::Job& job : *response->mutable_jobs()) SetWaitReason(&job);
    response->set_next_page_token(
        NextToken(edge_.page_tokens(), page.next_before, arguments));
    return absl::OkStatus();
  }

  Edge& edge_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeJobService(Edge& edge) {
  return std::make_unique<JobServiceImpl>(edge);
}

}  // namespace quantd::api
