// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/server_link.h"

#include <chrono>
#include <fstream>
#include <vector>

#include "absl/strings/string_view.h"
#include "grpcpp/create_channel.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/agent/rpc_status.h"

namespace quantd::agent {
namespace {

constexpr absl::Duration kCallDeadline = absl::Seconds(20);
// Large blobs: at least this many bytes per second are taken for granted.
constexpr int64_t kSlowestBytesPerSecond = 1 << 20;
constexpr size_t kPartBytes = 1 << 20;

std::unique_ptr<v1::WorkerService::Stub> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  // Without a pool of its own a channel shares the connection of every other
  // channel to the same address.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A proxy of the environment is for the web, not for the server.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // How long one attempt may take, 20 s by default: a server that stops may
  // have taken the connection and never answer on it, and leases are short.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetMaxReceiveMessageSize(-1);
  return v1::WorkerService::NewStub(grpc::CreateCustomChannel(
      address, grpc::InsecureChannelCredentials(), arguments));
}

// A call waits for the connection until its deadline instead of failing at
// once: only while some thread waits in a call does gRPC read the sockets that
// it reconnects with (but for a look every 5 s, longer than short leases).
void SetDeadline(grpc::ClientContext& context, absl::Duration deadline) {
  context.set_wait_for_ready(true);
  context.set_deadline(std::chrono::system_clock::now() +
                       absl::ToChronoMilliseconds(deadline));
}

absl::Status FileBroken() {
  return base::MakeError(absl::StatusCode::kUnavailable, "FILE_ERROR",
                         "a file of a blob cannot be read to its end");
}

// Sends the bytes of `file` in parts. False where the stream ended early.
absl::StatusOr<bool> SendFile(grpc::ClientWriter<v1::WriteBlobRequest>& writer,
                              const v1::BlobRef& blob,
                              const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return FileBroken();
  v1::WriteBlobRequest part;
  *part.mutable_blob() = blob;
  std::string* bytes = part.mutable_data();
  for (int64_t left = blob.size_bytes();;) {
    bytes->resize(std::min<int64_t>(left, kPartBytes));
    in.read(bytes->data(), static_cast<std::streamsize>(bytes->size()));
    if (in.gcount() != static_cast<std::streamsize>(bytes->size())) {
      return FileBroken();
    }
    if (!writer.Write(part)) return false;
    left -= static_cast<int64_t>(bytes->size());
    if (left == 0) return true;
    part.clear_blob();
  }
}

}  // namespace

ServerLink::ServerLink(const std::string& address)
    : beats_(Connect(address)), data_(Connect(address)) {}

absl::StatusOr<v1::RegisterResponse> ServerLink::Register(
    const v1::RegisterRequest& request, absl::Duration deadline) {
  grpc::ClientContext context;
  SetDeadline(context, deadline);
  v1::RegisterResponse response;
  RETURN_IF_ERROR(FromGrpc(beats_->Register(&context, request, &response)));
  return response;
}

absl::StatusOr<v1::SynchronizeResponse> ServerLink::Synchronize(
    const v1::SynchronizeRequest& request, absl::Duration deadline) {
  grpc::ClientContext context;
  SetDeadline(context, deadline);
  v1::SynchronizeResponse response;
  RETURN_IF_ERROR(FromGrpc(beats_->Synchronize(&context, request, &response)));
  return response;
}

absl::Status ServerLink::Wake(const v1::WakeRequest& request, CallGroup& calls,
                              const std::function<void()>& on_wake) {
  grpc::ClientContext context;
  const ScopedCall call(calls, context);
  auto reader = beats_->Wake(&context, request);
  v1::WakeResponse response;
  while (reader->Read(&response)) on_wake();
  return FromGrpc(reader->Finish());
}

absl::Status ServerLink::CommitStep(const v1::CommitStepRequest& request,
                                    CallGroup& calls) {
  grpc::ClientContext context;
  SetDeadline(context, kCallDeadline);
  const ScopedCall call(calls, context);
  v1::CommitStepResponse response;
  return FromGrpc(data_->CommitStep(&context, request, &response));
}

absl::StatusOr<v1::FinishResponse> ServerLink::Finish(
    const v1::FinishRequest& request, CallGroup& calls) {
  grpc::ClientContext context;
  SetDeadline(context, kCallDeadline);
  const ScopedCall call(calls, context);
  v1::FinishResponse response;
  RETURN_IF_ERROR(FromGrpc(data_->Finish(&context, request, &response)));
  return response;
}

absl::StatusOr<v1::AppendLogResponse> ServerLink::AppendLog(
    const v1::AppendLogRequest& request, CallGroup& calls) {
  grpc::ClientContext context;
  SetDeadline(context, kCallDeadline);
  const ScopedCall call(calls, context);
  v1::AppendLogResponse response;
  RETURN_IF_ERROR(FromGrpc(data_->AppendLog(&context, request, &response)));
  return response;
}

absl::Status ServerLink::WriteBlob(const v1::BlobRef& blob,
                                   const std::string& file, CallGroup& calls) {
  grpc::ClientContext context;
  SetDeadline(context, kCallDeadline + absl::Seconds(blob.size_bytes() /
                                                     kSlowestBytesPerSecond));
  const ScopedCall call(calls, context);
  v1::WriteBlobResponse response;
  auto writer = data_->WriteBlob(&context, &response);
  const absl::StatusOr<bool> sent = SendFile(*writer, blob, file);
  if (!sent.ok()) {
    context.TryCancel();
    writer->Finish().ok();
    return sent.status();
  }
  // A server that has the blob already may answer before the last part.
  if (*sent) writer->WritesDone();
  return FromGrpc(writer->Finish());
}

absl::Status ServerLink::ReadBlob(const std::string& sha256,
                                  const std::string& file, CallGroup& calls) {
  grpc::ClientContext context;
  const ScopedCall call(calls, context);
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  v1::ReadBlobRequest request;
  request.set_sha256(sha256);
  auto reader = data_->ReadBlob(&context, request);
  v1::ReadBlobResponse part;
  while (reader->Read(&part)) {
    out.write(part.data().data(),
              static_cast<std::streamsize>(part.data().size()));
    if (!out) context.TryCancel();
  }
  const absl::Status status = FromGrpc(reader->Finish());
  errno = 0;
  out.close();
  if (!out) return base::ErrnoStatus(ENOSPC, "writing a fetched blob");
  return status;
}

}  // namespace quantd::agent
