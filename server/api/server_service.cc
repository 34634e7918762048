// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include "google/protobuf/util/time_util.h"
#include "proto/base/status_macros.h"
#include "quantd/v1/services.grpc.pb.h"
#include "server/api/disk_usage.h"
#include "server/api/services.h"

namespace quantd::api {
namespace {

using Context = grpc::CallbackServerContext;

class ServerServiceImpl : public v1::ServerService::CallbackService {
 public:
  explicit ServerServiceImpl(Edge& edge) : edge_(edge) {}

  grpc::ServerUnaryReactor* GetServerStatus(
      Context* context, const v1::GetServerStatusRequest*,
      v1::GetServerStatusResponse* response) override {
    return edge_.Unary(context, "GetServerStatus",
                       [=, this] { return Status(response); });
  }

  grpc::ServerUnaryReactor* ListWorkers(
      Context* context, const v1::ListWorkersRequest*,
      v1::ListWorkersResponse* response) override {
    return edge_.Unary(context, "ListWorkers", [=, this] {
      const std::vector<v1::WorkerStatus> workers =
          edge_.backend().scheduler->ListWorkers();
      response->mutable_workers()->Assign(workers.begin(), workers.end());
      return absl::OkStatus();
    });
  }

 private:
  absl::Status Status(v1::GetServerStatusResponse* response) {
    const Backend& backend = edge_.backend();
    ASSIGN_OR_RETURN(const auto jobs, backend.store->CountJobs());
    for (const auto& [state, count] : jobs) {
      (*response->mutable_jobs())[v1::JobState_Name(state)] = count;
    }
    const store::StoreStats stats = backend.store->Stats();
    const DiskUsage disk = MeasureDisk(backend.blob_root);
    response->set_version(backend.version);
    *response->mutable_start_time() =
        google::protobuf::util::TimeUtil::NanosecondsToTimestamp(
            absl::ToUnixNanos(edge_.start_time()));
    response->set_workers(
        static_cast<int64_t>(backend.scheduler->ListWorkers().size()));
    response->set_blob_bytes(disk.used_bytes);
    response->set_free_bytes(disk.free_bytes);
    response->set_ready(stats.ready && disk.free_bytes >= kReserveBytes);
    response->set_schema_version(stats.schema_version);
    return absl::OkStatus();
  }

  Edge& edge_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeServerService(Edge& edge) {
  return std::make_unique<ServerServiceImpl>(edge);
}

}  // namespace quantd::api
