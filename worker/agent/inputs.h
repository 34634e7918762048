// SPDX-License-Identifier: Apache-2.0
// From an assignment to what a runner is started with: every blob it needs is a
// local file by then.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "quantd/v1/runner.pb.h"
#include "quantd/v1/worker.pb.h"
#include "worker/agent/blob_transfer.h"

namespace quantd::agent {

// The role of a step's blob that only the step right after it needs.
inline constexpr char kActivationsRole[] = "activations";

// Fetches the blobs of the committed steps (of the activations only the newest)
// and of the source artifact to folders below `work_path`, and lays the
// artifact's files out under their names. `work_path` exists afterwards.
// INVALID_ARGUMENT (ARTIFACT_PATH_INVALID) for a name that leaves its folder.
absl::StatusOr<v1::StartJob> PrepareStart(const v1::Assignment& assignment,
                                          const std::string& work_path,
                                          BlobTransfer& blobs,
                                          CallGroup& calls);

}  // namespace quantd::agent
