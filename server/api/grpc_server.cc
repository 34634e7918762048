// SPDX-License-Identifier: Apache-2.0
#include "server/api/grpc_server.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/impl/server_builder_option.h"
#include "grpcpp/impl/server_builder_plugin.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/resource_quota.h"
#include "proto/base/error.h"
#include "server/api/services.h"

namespace quantd::api {
namespace {

// A report of a large model has a curve for each of its thousands of layers.
constexpr int kMaxMessageBytes = 32 << 20;
constexpr size_t kMemoryBytes = size_t{512} << 20;

// Both ends must agree on keepalive: peers may ping every 10 s, also without a
// call; the server pings a silent peer after 60 s.
void SetLimits(grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 256);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 8192);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder->AddChannelArgument(
      GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  // A second server on the port is an error, not a silent share of the calls.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Inflating what a stranger sends is work without a bound.
  builder->AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  builder->SetResourceQuota(grpc::ResourceQuota("quantd").Resize(kMemoryBytes));
}

// The library adds its plugin to every server of a program that is linked with
// it, asked or not.
class WithoutReflection : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>*
                         plugins) override {
    plugins->erase(std::remove_if(plugins->begin(), plugins->end(),
                                  [](const auto& plugin) {
                                    return plugin->name() ==
                                           "proto_server_reflection";
                                  }),
                   plugins->end());
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    Edge& edge, const ListenAddress& address, bool reflection) {
  grpc::EnableDefaultHealthCheckService(true);
  auto result = std::unique_ptr<GrpcServer>(new GrpcServer());
  result->edge_ = &edge;
  result->services_.push_back(MakeJobService(edge));
  result->services_.push_back(MakeArtifactService(edge));
  result->services_.push_back(MakeCatalogService(edge));
  result->services_.push_back(MakeServerService(edge));
  result->services_.push_back(MakeWorkerService(edge));
  grpc::ServerBuilder builder;
  SetLimits(&builder);
  if (reflection) {
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  } else {
    builder.SetOption(std::make_unique<WithoutReflection>());
  }
  for (const auto& service : result->services_) {
    builder.RegisterService(service.get());
  }
  builder.AddListeningPort(AddressText(address.host, address.port),
                           grpc::InsecureServerCredentials(), &result->port_);
  result->server_ = builder.BuildAndStart();
  if (result->server_ == nullptr || result->port_ == 0) {
    return base::MakeError(
        absl::StatusCode::kUnavailable, "GRPC_LISTEN_FAILED",
        absl::StrCat("port ", address.port,
                     " for gRPC cannot be listened on; another program may "
                     "hold it, choose one with --listen"),
        {{"port", absl::StrCat(address.port)}});
  }
  return result;
}

GrpcServer::~GrpcServer() { Shutdown(absl::ZeroDuration()); }

void GrpcServer::SetServing(bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(serving);
}

void GrpcServer::Shutdown(absl::Duration grace) {
  if (server_ == nullptr) return;
  SetServing(false);
  edge_->streams().CloseAll(
      base::MakeError(absl::StatusCode::kUnavailable, "SERVER_STOPPING",
                      "the server is stopping; connect again"));
  server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
  server_->Wait();
  server_.reset();
}

}  // namespace quantd::api
