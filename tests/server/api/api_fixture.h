// SPDX-License-Identifier: Apache-2.0
// A whole server in this process, reached over real gRPC on a free port, and a
// worker that does exactly what a test says.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "quantd/v1/services.grpc.pb.h"
#include "server/server.h"
#include "tests/proto/spec/small_catalog.h"
#include "tests/support/test_data.h"

namespace quantd::api {

// The detail of type T in an error; default where there is none.
template <typename T>
T DetailOf(const grpc::Status& status) {
  google::rpc::Status details;
  T result;
  if (!details.ParseFromString(status.error_details())) return result;
  for (const auto& any : details.details()) {
    if (any.Is<T>()) any.UnpackTo(&result);
  }
  return result;
}

inline std::string ReasonOf(const grpc::Status& status) {
  return DetailOf<google::rpc::ErrorInfo>(status).reason();
}

// A context with a deadline, as every client sets one.
struct Call : grpc::ClientContext {
  Call() {
    set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  }
};

class ApiTest : public ::testing::Test {
 protected:
  void SetUp() override { StartServer(); }
  void TearDown() override { StopServer(); }

  void StartServer() {
    server::Server::Options options;
    options.config.data_dir = directory_.File("data");
    options.config.listen = "127.0.0.1:0";
    options.config.http_listen = "127.0.0.1:0";
    options.edge.bookmark_interval = absl::Milliseconds(50);
    auto server = server::Server::Start(std::move(options));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    // A channel of its own for every server: old ports are not tried again.
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto channel = grpc::CreateCustomChannel(
        server_->grpc_address(), grpc::InsecureChannelCredentials(), arguments);
    channel_ = channel;
    jobs_ = v1::JobService::NewStub(channel);
    artifacts_ = v1::ArtifactService::NewStub(channel);
    workers_ = v1::WorkerService::NewStub(channel);
  }
  void StopServer() { server_.reset(); }
  void RestartServer() {
    StopServer();
    StartServer();
  }

  // Registers the worker "w"; the server then knows the small catalog.
  void Register() {
    v1::RegisterRequest request;
    request.set_worker_name("w");
    request.set_incarnation("i1");
    request.mutable_device()->set_id("cpu");
    *request.mutable_catalog() = spec::SmallCatalog();
    request.mutable_catalog()->set_code_version("c1");
    v1::RegisterResponse response;
    Call call;
    const grpc::Status status = workers_->Register(&call, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    boot_id_ = response.boot_id();
  }

  v1::SynchronizeResponse Synchronize(
      const std::vector<v1::HeldWork>& held = {}, bool accepts_work = true) {
    v1::SynchronizeRequest request;
    request.set_worker_name("w");
    request.set_incarnation("i1");
    request.set_boot_id(boot_id_);
    request.set_accepts_work(accepts_work);
    request.mutable_held()->Assign(held.begin(), held.end());
    v1::SynchronizeResponse response;
    Call call;
    const grpc::Status status =
        workers_->Synchronize(&call, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  // Takes the next job and says that it runs.
  v1::Lease TakeWork() {
    const v1::SynchronizeResponse work = Synchronize();
    EXPECT_EQ(work.desired_size(), 1);
    if (work.desired().empty()) return v1::Lease();
    v1::HeldWork held;
    *held.mutable_lease() = work.desired(0).lease();
    held.set_running(true);
    Synchronize({held});
    return held.lease();
  }

  grpc::Status Commit(const v1::Lease& lease, int64_t step) {
    v1::CommitStepRequest request;
    *request.mutable_lease() = lease;
    request.mutable_step()->set_step(step);
    request.mutable_step()->set_num_steps(3);
    request.mutable_step()->set_kind("block");
    request.mutable_step()->set_fingerprint("f");
    v1::CommitStepResponse response;
    Call call;
    return workers_->CommitStep(&call, request, &response);
  }

  grpc::Status Finish(const v1::Lease& lease) {
    v1::FinishRequest request;
    *request.mutable_lease() = lease;
    request.mutable_report()->set_bits_per_weight(4.5);
    v1::FinishResponse response;
    Call call;
    return workers_->Finish(&call, request, &response);
  }

  grpc::Status Submit(const v1::SubmitJobRequest& request,
                      v1::SubmitJobResponse* response) {
    Call call;
    return jobs_->SubmitJob(&call, request, response);
  }
  // The id of a fresh good job.
  std::string SubmitGood(const std::string& run = "") {
    v1::SubmitJobRequest request;
    *request.mutable_spec() = spec::GoodJob();
    if (!run.empty()) (*request.mutable_spec()->mutable_labels())["run"] = run;
    v1::SubmitJobResponse response;
    const grpc::Status status = Submit(request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.job().job_id();
  }
  v1::Job Get(const std::string& id) {
    v1::GetJobRequest request;
    request.set_job_id(id);
    v1::GetJobResponse response;
    Call call;
    const grpc::Status status = jobs_->GetJob(&call, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.job();
  }
  grpc::Status List(const v1::ListJobsRequest& request,
                    v1::ListJobsResponse* response) {
    Call call;
    return jobs_->ListJobs(&call, request, response);
  }
  grpc::Status Cancel(const std::string& id, v1::Job* job = nullptr) {
    v1::CancelJobRequest request;
    request.set_job_id(id);
    v1::CancelJobResponse response;
    Call call;
    const grpc::Status status = jobs_->CancelJob(&call, request, &response);
    if (job != nullptr) *job = response.job();
    return status;
  }
  grpc::Status Retry(const std::string& id) {
    v1::RetryJobRequest request;
    request.set_job_id(id);
    v1::RetryJobResponse response;
    Call call;
    return jobs_->RetryJob(&call, request, &response);
  }

  support::TemporaryDirectory directory_;
  std::unique_ptr<server::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::ArtifactService::Stub> artifacts_;
  std::unique_ptr<v1::WorkerService::Stub> workers_;
  std::string boot_id_;
};

}  // namespace quantd::api
