// SPDX-License-Identifier: Apache-2.0
// The artifacts of a finished job: their files become blobs, their names and
// digests the rows that Finish writes.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "quantd/v1/artifact.pb.h"
#include "quantd/v1/runner.pb.h"
#include "worker/agent/blob_transfer.h"

namespace quantd::agent {

// Publishes the files that no step has published. The files are sorted by path.
// The server gives the artifact its id.
absl::StatusOr<v1::Artifact> PublishArtifact(
    const v1::ProducedArtifact& produced, const std::string& job_id,
    BlobTransfer& blobs, CallGroup& calls);

}  // namespace quantd::agent
