// SPDX-License-Identifier: Apache-2.0
#include "tests/client/fakes/fake_server.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/grpcpp.h"
#include "quantd/v1/services.grpc.pb.h"

namespace quantd::fakes {
namespace {

constexpr size_t kBlobPartBytes = 4;

grpc::Status Failure(int code, const std::string& reason,
                     const std::string& message) {
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("quantd");
  google::rpc::Status status;
  status.set_code(code);
  status.set_message(message);
  status.add_details()->PackFrom(info);
  return grpc::Status(static_cast<grpc::StatusCode>(code), message,
                      status.SerializeAsString());
}

grpc::Status Broken() {
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, "broken on request");
}

}  // namespace

struct FakeServer::Services {
  struct Jobs : v1::JobService::Service {
    explicit Jobs(FakeServer& fake_server) : fake(fake_server) {}

    v1::Job* Find(const std::string& id) {
      for (v1::Job& job : fake.jobs) {
        if (absl::StartsWith(job.job_id(), id)) return &job;
      }
      return nullptr;
    }

    grpc::Status SubmitJob(grpc::ServerContext*,
                           const v1::SubmitJobRequest* request,
                           v1::SubmitJobResponse* response) override {
      absl::MutexLock lock(&fake.mu_);
      fake.submits_.push_back(*request);
      if (request->validate_only()) {
        *response->mutable_job()->mutable_spec() = request->spec();
        response->mutable_job()->set_display_name("tiny_GPTQ_w4_g64");
        return grpc::Status::OK;
      }
      v1::Job* job = nullptr;
      for (v1::Job& known : fake.jobs) {
        if (known.request_id() == request->request_id()) job = &known;
      }
      response->set_existed(job != nullptr);
      if (job == nullptr) {
        job = &fake.jobs.emplace_back();
        job->set_job_id("newjobnewjobnewjobnw");
        job->set_display_name("tiny_GPTQ_w4_g64");
        *job->mutable_spec() = request->spec();
        job->set_state(v1::JOB_STATE_QUEUED);
        job->set_request_id(request->request_id());
      }
      if (fake.lost_submit_answers-- > 0) return Broken();
      *response->mutable_job() = *job;
      return grpc::Status::OK;
    }

    grpc::Status GetJob(grpc::ServerContext*, const v1::GetJobRequest* request,
                        v1::GetJobResponse* response) override {
      if (fake.get_job_code != 0) {
        return Failure(fake.get_job_code, fake.get_job_reason, "told to fail");
      }
      const v1::Job* job = Find(request->job_id());
      if (job == nullptr) {
        return Failure(grpc::StatusCode::NOT_FOUND, "JOB_NOT_FOUND",
                       absl::StrCat("no job has the id ", request->job_id()));
      }
      *response->mutable_job() = *job;
      return grpc::Status::OK;
    }

    grpc::Status ListJobs(grpc::ServerContext*,
                          const v1::ListJobsRequest* request,
                          v1::ListJobsResponse* response) override {
      absl::MutexLock lock(&fake.mu_);
      fake.lists_.push_back(*request);
      for (const v1::Job& job : fake.jobs) *response->add_jobs() = job;
      return grpc::Status::OK;
    }

    grpc::Status WatchJob(
        grpc::ServerContext*, const v1::WatchJobRequest* request,
        grpc::ServerWriter<v1::WatchJobResponse>* writer) override {
      {
        absl::MutexLock lock(&fake.mu_);
        fake.watch_starts_.push_back(request->from_seq());
      }
      int sent = 0;
      for (const v1::Event& event : fake.events[request->job_id()]) {
        if (event.seq() != 0 && (event.seq() < request->from_seq() ||
                                 event.seq() == fake.hidden_seq)) {
          continue;
        }
        if (sent++ == fake.break_streams_after) return Broken();
        v1::WatchJobResponse response;
        *response.mutable_event() = event;
        writer->Write(response);
      }
      return grpc::Status::OK;
    }

    grpc::Status CancelJob(grpc::ServerContext*,
                           const v1::CancelJobRequest* request,
                           v1::CancelJobResponse* response) override {
      v1::Job* job = Find(request->job_id());
      job->set_state(v1::JOB_STATE_CANCELLING);
      *response->mutable_job() = *job;
      return grpc::Status::OK;
    }

    grpc::Status RetryJob(grpc::ServerContext*,
                          const v1::RetryJobRequest* request,
                          v1::RetryJobResponse* response) override {
      v1::Job* job = Find(request->job_id());
      job->set_state(v1::JOB_STATE_QUEUED);
      *response->mutable_job() = *job;
      return grpc::Status::OK;
    }

    grpc::Status ExplainJob(grpc::ServerContext*, const v1::ExplainJobRequest*,
                            v1::ExplainJobResponse* response) override {
      response->add_sentences("The job waits for a worker.");
      response->add_sentences("It is next in the queue.");
      return grpc::Status::OK;
    }

    grpc::Status ReadJobLog(grpc::ServerContext*,
                            const v1::ReadJobLogRequest* request,
                            v1::ReadJobLogResponse* response) override {
      const size_t from = static_cast<size_t>(request->offset());
      response->set_text(fake.log.substr(from, kBlobPartBytes));
      response->set_next_offset(
          static_cast<int64_t>(from + response->text().size()));
      response->set_complete(response->text().empty());
      return grpc::Status::OK;
    }

    FakeServer& fake;
  };

  struct Artifacts : v1::ArtifactService::Service {
    explicit Artifacts(FakeServer& fake_server) : fake(fake_server) {}

    grpc::Status GetArtifact(grpc::ServerContext*,
                             const v1::GetArtifactRequest* request,
                             v1::GetArtifactResponse* response) override {
      for (const v1::Artifact& artifact : fake.artifacts) {
        if (!absl::StartsWith(artifact.artifact_id(), request->artifact_id())) {
          continue;
        }
        *response->mutable_artifact() = artifact;
        return grpc::Status::OK;
      }
      return Failure(grpc::StatusCode::NOT_FOUND, "ARTIFACT_NOT_FOUND",
                     "no artifact has this id");
    }

    grpc::Status ListArtifacts(grpc::ServerContext*,
                               const v1::ListArtifactsRequest*,
                               v1::ListArtifactsResponse* response) override {
      for (const v1::Artifact& artifact : fake.artifacts) {
        *response->add_artifacts() = artifact;
      }
      return grpc::Status::OK;
    }

    grpc::Status ReadBlob(
        grpc::ServerContext*, const v1::ReadBlobRequest* request,
        grpc::ServerWriter<v1::ReadBlobResponse>* writer) override {
      const std::string& bytes = fake.blobs[request->sha256()];
      int sent = 0;
      for (size_t at = static_cast<size_t>(request->offset());
           at < bytes.size(); at += kBlobPartBytes) {
        if (sent++ == fake.break_streams_after) return Broken();
        v1::ReadBlobResponse response;
        response.set_data(bytes.substr(at, kBlobPartBytes));
        writer->Write(response);
      }
      return grpc::Status::OK;
    }

    FakeServer& fake;
  };

  struct Catalog : v1::CatalogService::Service {
    explicit Catalog(FakeServer& fake_server) : fake(fake_server) {}

    grpc::Status GetCatalog(grpc::ServerContext*, const v1::GetCatalogRequest*,
                            v1::GetCatalogResponse* response) override {
      *response->mutable_catalog() = fake.catalog;
      return grpc::Status::OK;
    }

    FakeServer& fake;
  };

  struct Server : v1::ServerService::Service {
    explicit Server(FakeServer& fake_server) : fake(fake_server) {}

    grpc::Status GetServerStatus(
        grpc::ServerContext*, const v1::GetServerStatusRequest*,
        v1::GetServerStatusResponse* response) override {
      *response = fake.server_status;
      return grpc::Status::OK;
    }

    grpc::Status ListWorkers(grpc::ServerContext*,
                             const v1::ListWorkersRequest*,
                             v1::ListWorkersResponse* response) override {
      *response = fake.workers;
      return grpc::Status::OK;
    }

    FakeServer& fake;
  };

  explicit Services(FakeServer& fake)
      : jobs(fake), artifacts(fake), catalog(fake), server_service(fake) {}

  Jobs jobs;
  Artifacts artifacts;
  Catalog catalog;
  Server server_service;
  std::unique_ptr<grpc::Server> server;
};

FakeServer::FakeServer() : services_(std::make_unique<Services>(*this)) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                           &port);
  builder.RegisterService(&services_->jobs);
  builder.RegisterService(&services_->artifacts);
  builder.RegisterService(&services_->catalog);
  builder.RegisterService(&services_->server_service);
  services_->server = builder.BuildAndStart();
  address_ = absl::StrCat("127.0.0.1:", port);
}

FakeServer::~FakeServer() { services_->server->Shutdown(); }

std::vector<v1::SubmitJobRequest> FakeServer::submits() const {
  absl::MutexLock lock(&mu_);
  return submits_;
}

std::vector<int64_t> FakeServer::watch_starts() const {
  absl::MutexLock lock(&mu_);
  return watch_starts_;
}

std::vector<v1::ListJobsRequest> FakeServer::lists() const {
  absl::MutexLock lock(&mu_);
  return lists_;
}

}  // namespace quantd::fakes
