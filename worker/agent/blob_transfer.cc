// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/blob_transfer.h"

#include <unistd.h>

#include "proto/base/digest.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::agent {
namespace {

v1::BlobRef RefOf(const std::string& sha256, int64_t size_bytes) {
  v1::BlobRef blob;
  blob.set_sha256(sha256);
  blob.set_size_bytes(size_bytes);
  return blob;
}

absl::Status CheckDigest(const std::string& path, const std::string& sha256) {
  ASSIGN_OR_RETURN(const base::FileDigest digest, base::DigestFile(path));
  if (digest.sha256 == sha256) return absl::OkStatus();
  return base::MakeError(
      absl::StatusCode::kDataLoss, "BLOB_DIGEST_MISMATCH",
      "a stored blob does not have the bytes that its name stands for");
}

}  // namespace

BlobTransfer::BlobTransfer(std::unique_ptr<base::BlobDirectory> shared,
                           ServerLink& link)
    : shared_(std::move(shared)), link_(link) {}

absl::StatusOr<v1::BlobRef> BlobTransfer::Publish(const std::string& file,
                                                  CallGroup& calls) {
  if (shared_ != nullptr) {
    ASSIGN_OR_RETURN(const base::Blob blob, shared_->AddFile(file));
    return RefOf(blob.sha256, blob.size_bytes);
  }
  ASSIGN_OR_RETURN(const base::FileDigest digest, base::DigestFile(file));
  const v1::BlobRef blob = RefOf(digest.sha256, digest.size_bytes);
  RETURN_IF_ERROR(
      calls.Repeat([&] { return link_.WriteBlob(blob, file, calls); }));
  return blob;
}

absl::StatusOr<std::string> BlobTransfer::Fetch(const std::string& sha256,
                                                base::BlobDirectory& cache,
                                                CallGroup& calls) {
  if (shared_ != nullptr && shared_->Has(sha256)) {
    ASSIGN_OR_RETURN(const std::string path, shared_->PathOf(sha256));
    RETURN_IF_ERROR(CheckDigest(path, sha256));
    return path;
  }
  ASSIGN_OR_RETURN(const std::string path, cache.PathOf(sha256));
  if (cache.Has(sha256)) return path;
  const std::string temporary = cache.NewTemporaryPath();
  const absl::Status status =
      calls.Repeat([&] { return link_.ReadBlob(sha256, temporary, calls); });
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  RETURN_IF_ERROR(cache.Adopt(temporary, sha256).status());
  return path;
}

}  // namespace quantd::agent
