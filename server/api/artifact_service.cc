// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/base/status_macros.h"
#include "quantd/v1/services.grpc.pb.h"
#include "server/api/blob_streams.h"
#include "server/api/paging.h"
#include "server/api/services.h"

namespace quantd::api {
namespace {

using Context = grpc::CallbackServerContext;

class ArtifactServiceImpl : public v1::ArtifactService::CallbackService {
 public:
  explicit ArtifactServiceImpl(Edge& edge) : edge_(edge) {}

  grpc::ServerUnaryReactor* GetArtifact(
      Context* context, const v1::GetArtifactRequest* request,
      v1::GetArtifactResponse* response) override {
    return edge_.Unary(context, "GetArtifact", [=, this] {
      return Assign(edge_.backend().store->GetArtifact(request->artifact_id()),
                    response->mutable_artifact());
    });
  }

  grpc::ServerUnaryReactor* ListArtifacts(
      Context* context, const v1::ListArtifactsRequest* request,
      v1::ListArtifactsResponse* response) override {
    return edge_.Unary(context, "ListArtifacts",
                       [=, this] { return List(*request, response); });
  }

  grpc::ServerWriteReactor<v1::ReadBlobResponse>* ReadBlob(
      Context*, const v1::ReadBlobRequest* request) override {
    return ReadBlobStream(edge_, *request);
  }

 private:
  absl::Status List(const v1::ListArtifactsRequest& request,
                    v1::ListArtifactsResponse* response) {
    ASSIGN_OR_RETURN(const int32_t size, PageSize(request.page_size()));
    std::string job_id = request.job_id();
    if (!job_id.empty()) {
      ASSIGN_OR_RETURN(const v1::Job job, edge_.backend().jobs->Get(job_id));
      job_id = job.job_id();
    }
    const std::string arguments = absl::StrCat("ListArtifacts|", job_id);
    ASSIGN_OR_RETURN(
        const int64_t before,
        PageStart(edge_.page_tokens(), request.page_token(), arguments));
    ASSIGN_OR_RETURN(
        store::ArtifactPage page,
        edge_.backend().store->ListArtifacts(job_id, before, size));
    response->mutable_artifacts()->Assign(page.artifacts.begin(),
                                          page.artifacts.end());
    response->set_next_page_token(
        NextToken(edge_.page_tokens(), page.next_before, arguments));
    return absl::OkStatus();
  }

  Edge& edge_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeArtifactService(Edge& edge) {
  return std::make_unique<ArtifactServiceImpl>(edge);
}

}  // namespace quantd::api
