// SPDX-License-Identifier: Apache-2.0
#include "proto/base/status_macros.h"
#include "quantd/v1/services.grpc.pb.h"
#include "server/api/services.h"

namespace quantd::api {
namespace {

class CatalogServiceImpl : public v1::CatalogService::CallbackService {
 public:
  explicit CatalogServiceImpl(Edge& edge) : edge_(edge) {}

  grpc::ServerUnaryReactor* GetCatalog(
      grpc::CallbackServerContext* context, const v1::GetCatalogRequest*,
      v1::GetCatalogResponse* response) override {
    return edge_.Unary(context, "GetCatalog", [=, this]() -> absl::Status {
      ASSIGN_OR_RETURN(const auto catalog, edge_.Catalog());
      *response->mutable_catalog() = *catalog;
      return absl::OkStatus();
    });
  }

 private:
  Edge& edge_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeCatalogService(Edge& edge) {
  return std::make_unique<CatalogServiceImpl>(edge);
}

}  // namespace quantd::api
