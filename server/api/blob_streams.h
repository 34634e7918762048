// SPDX-License-Identifier: Apache-2.0
// Blobs over RPC: reads that begin at any offset, writes that are checked
// against the digest they were announced with.
#pragma once

#include "grpcpp/grpcpp.h"
#include "quantd/v1/services.pb.h"
#include "server/api/edge.h"

namespace quantd::api {

inline constexpr int64_t kBlobChunkBytes = 256 << 10;
// Larger blobs are refused; shards of checkpoints are far below.
inline constexpr int64_t kMaxBlobBytes = int64_t{1} << 40;

// NOT_FOUND, BLOB_NOT_FOUND; OUT_OF_RANGE, BLOB_OFFSET, past the end.
grpc::ServerWriteReactor<v1::ReadBlobResponse>* ReadBlobStream(
    Edge& edge, const v1::ReadBlobRequest& request);

// INVALID_ARGUMENT: BLOB_NAME_INVALID, BLOB_SIZE. DATA_LOSS,
// BLOB_DIGEST_MISMATCH. A blob that is there already is answered at once.
grpc::ServerReadReactor<v1::WriteBlobRequest>* WriteBlobStream(
    Edge& edge, v1::WriteBlobResponse* response);

}  // namespace quantd::api
