// SPDX-License-Identifier: Apache-2.0
// The channel and stubs behind Client; apart from client.h so that only this
// folder compiles the gRPC headers.
#pragma once

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "client/rpc/client.h"
#include "grpcpp/grpcpp.h"
#include "quantd/v1/services.grpc.pb.h"

namespace quantd::rpc {

struct Client::Stubs {
  explicit Stubs(std::shared_ptr<grpc::Channel> channel)
      : jobs(v1::JobService::NewStub(channel)),
        artifacts(v1::ArtifactService::NewStub(channel)),
        catalog(v1::CatalogService::NewStub(channel)),
        server(v1::ServerService::NewStub(channel)) {}

  const std::unique_ptr<v1::JobService::Stub> jobs;
  const std::unique_ptr<v1::ArtifactService::Stub> artifacts;
  const std::unique_ptr<v1::CatalogService::Stub> catalog;
  const std::unique_ptr<v1::ServerService::Stub> server;
};

// A channel that notices a dead server within seconds and comes back to a
// restarted one at once.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& server);

inline void SetDeadline(grpc::ClientContext& context, absl::Time deadline) {
  if (deadline != absl::InfiniteFuture()) {
    context.set_deadline(absl::ToChronoTime(deadline));
  }
}

}  // namespace quantd::rpc
