// SPDX-License-Identifier: Apache-2.0
// The gRPC services: each translates and delegates, no rule is longer than an
// if. All are thread-safe and live as long as the gRPC server that has them.
#pragma once

#include <memory>

#include "grpcpp/grpcpp.h"
#include "server/api/edge.h"

namespace quantd::api {

// `edge` outlives what is returned.
std::unique_ptr<grpc::Service> MakeJobService(Edge& edge);
std::unique_ptr<grpc::Service> MakeArtifactService(Edge& edge);
std::unique_ptr<grpc::Service> MakeCatalogService(Edge& edge);
std::unique_ptr<grpc::Service> MakeServerService(Edge& edge);
std::unique_ptr<grpc::Service> MakeWorkerService(Edge& edge);

}  // namespace quantd::api
