// SPDX-License-Identifier: Apache-2.0
// The gRPC port: all services, health, limits.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "server/api/edge.h"
#include "server/api/listen_address.h"

namespace quantd::api {

class GrpcServer {
 public:
  // Listens from then on; `edge` outlives the object. UNAVAILABLE,
  // GRPC_LISTEN_FAILED, where the address is taken.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      Edge& edge, const ListenAddress& address, bool reflection);
  // Shuts down at once where Shutdown was not called.
  ~GrpcServer();

  int port() const { return port_; }
  // What the health service says of the whole server (the empty name).
  void SetServing(bool serving);
  // Health goes NOT_SERVING, streams are closed, calls in flight get `grace`.
  void Shutdown(absl::Duration grace);

 private:
  GrpcServer() = default;

  Edge* edge_ = nullptr;
  std::vector<std::unique_ptr<grpc::Service>> services_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace quantd::api
