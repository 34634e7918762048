// SPDX-License-Identifier: Apache-2.0
// Blobs in and out: through the directory that server and worker share, or,
// where there is none, over the network.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/base/blob_directory.h"
#include "quantd/v1/artifact.pb.h"
#include "worker/agent/server_link.h"

namespace quantd::agent {

// Thread-safe.
class BlobTransfer {
 public:
  // `shared` is null where blobs travel by RPC.
  BlobTransfer(std::unique_ptr<base::BlobDirectory> shared, ServerLink& link);

  // Makes `file` durable in the store and says what it is called there. With a
  // shared directory the bytes are linked: `file` must not change afterwards.
  absl::StatusOr<v1::BlobRef> Publish(const std::string& file,
                                      CallGroup& calls);

  // The path of the bytes named `sha256`, fetched to `cache` where they are not
  // here yet. Every fetch checks the digest: DATA_LOSS (BLOB_DIGEST_MISMATCH)
  // where the store's bytes are not what their name says.
  absl::StatusOr<std::string> Fetch(const std::string& sha256,
                                    base::BlobDirectory& cache,
                                    CallGroup& calls);

 private:
  const std::unique_ptr<base::BlobDirectory> shared_;
  ServerLink& link_;
};

}  // namespace quantd::agent
