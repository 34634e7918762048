// SPDX-License-Identifier: Apache-2.0
#include "proto/base/status_macros.h"
#include "quantd/v1/services.grpc.pb.h"
#include "server/api/blob_streams.h"
#include "server/api/services.h"
#include "server/api/watch_stream.h"

namespace quantd::api {
namespace {

using Context = grpc::CallbackServerContext;

class WorkerServiceImpl : public v1::WorkerService::CallbackService {
 public:
  explicit WorkerServiceImpl(Edge& edge) : edge_(edge) {}

  grpc::ServerUnaryReactor* Register(Context* context,
                                     const v1::RegisterRequest* request,
                                     v1::RegisterResponse* response) override {
    return edge_.Unary(context, "Register", [=, this]() -> absl::Status {
      RETURN_IF_ERROR(Assign(scheduler().Register(*request), response));
      edge_.ForgetCatalog();
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* Synchronize(
      Context* context, const v1::SynchronizeRequest* request,
      v1::SynchronizeResponse* response) override {
    return edge_.Unary(context, "Synchronize", [=, this] {
      return Assign(scheduler().Synchronize(*request), response);
    });
  }

  grpc::ServerWriteReactor<v1::WakeResponse>* Wake(
      Context*, const v1::WakeRequest* request) override {
    return WakeStream(edge_, *request);
  }

  grpc::ServerUnaryReactor* CommitStep(Context* context,
                                       const v1::CommitStepRequest* request,
                                       v1::CommitStepResponse*) override {
    return edge_.Unary(context, "CommitStep",
                       [=, this] { return scheduler().CommitStep(*request); });
  }

  grpc::ServerUnaryReactor* Finish(Context* context,
                                   const v1::FinishRequest* request,
                                   v1::FinishResponse* response) override {
    return edge_.Unary(context, "Finish", [=, this] {
      return Assign(scheduler().Finish(*request), response);
    });
  }

  grpc::ServerReadReactor<v1::WriteBlobRequest>* WriteBlob(
      Context*, v1::WriteBlobResponse* response) override {
    return WriteBlobStream(edge_, response);
  }

  grpc::ServerWriteReactor<v1::ReadBlobResponse>* ReadBlob(
      Context*, const v1::ReadBlobRequest* request) override {
    return ReadBlobStream(edge_, *request);
  }

  grpc::ServerUnaryReactor* AppendLog(
      Context* context, const v1::AppendLogRequest* request,
      v1::AppendLogResponse* response) override {
    return edge_.Unary(context, "AppendLog", [=, this] {
      return Assign(edge_.backend().jobs->AppendLog(*request), response);
    });
  }

 private:
  scheduler::Scheduler& scheduler() { return *edge_.backend().scheduler; }

  Edge& edge_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeWorkerService(Edge& edge) {
  return std::make_unique<WorkerServiceImpl>(edge);
}

}  // namespace quantd::api
