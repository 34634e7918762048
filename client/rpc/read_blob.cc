// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "client/rpc/client.h"
#include "client/rpc/grpc_status.h"
#include "client/rpc/stubs.h"
#include "proto/base/digest.h"
#include "proto/base/error.h"

namespace quantd::rpc {
namespace {

absl::Status Mismatch(const v1::BlobRef& blob, int64_t received) {
  return base::MakeError(
      absl::StatusCode::kDataLoss, "BLOB_DIGEST_MISMATCH",
      "the bytes received are not those of the blob; pull "
      "again, and if it repeats, check the server's disk",
      {{"sha256", blob.sha256()}, {"size_bytes", absl::StrCat(received)}});
}

}  // namespace

absl::Status Client::ReadBlobFrom(
    const v1::BlobRef& blob, int64_t offset,
    const std::function<absl::Status(absl::string_view)>& sink) {
  grpc::ClientContext context;
  v1::ReadBlobRequest request;
  request.set_sha256(blob.sha256());
  request.set_offset(offset);
  auto reader = stubs_->artifacts->ReadBlob(&context, request);
  v1::ReadBlobResponse response;
  while (reader->Read(&response)) {
    const absl::Status written = sink(response.data());
    if (!written.ok()) {
      context.TryCancel();
      reader->Finish().ok();
      return written;
    }
  }
  return FromGrpcStatus(reader->Finish());
}

absl::Status Client::ReadBlob(
    const v1::BlobRef& blob,
    const std::function<absl::Status(absl::string_view)>& sink) {
  base::Sha256 digest;
  int64_t received = 0;
  bool sink_failed = false;
  const auto counted = [&](absl::string_view bytes) {
    received += static_cast<int64_t>(bytes.size());
    digest.Update(bytes);
    // A blob that does not end must not fill the disk.
    absl::Status status =
        received > blob.size_bytes() ? Mismatch(blob, received) : sink(bytes);
    sink_failed = !status.ok();
    return status;
  };
  Backoff backoff(options_.backoff);
  for (int attempt = 1;; ++attempt) {
    const int64_t before = received;
    const absl::Status status = ReadBlobFrom(blob, received, counted);
    if (status.ok()) break;
    if (received > before) attempt = 1;
    if (sink_failed || !absl::IsUnavailable(status) ||
        attempt >= options_.backoff.max_attempts) {
      return status;
    }
    WaitToRetry(status, backoff.Next());
  }
  if (received == blob.size_bytes() && digest.Finish() == blob.sha256()) {
    return absl::OkStatus();
  }
  return Mismatch(blob, received);
}

}  // namespace quantd::rpc
