// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/artifacts.h"

#include <map>

#include "proto/base/status_macros.h"

namespace quantd::agent {

absl::StatusOr<v1::Artifact> PublishArtifact(
    const v1::ProducedArtifact& produced, const std::string& job_id,
    BlobTransfer& blobs, CallGroup& calls) {
  std::map<std::string, v1::BlobRef> files(produced.published().begin(),
                                           produced.published().end());
  for (const auto& [path, file] : produced.files()) {
    ASSIGN_OR_RETURN(files[path], blobs.Publish(file, calls));
  }
  v1::Artifact artifact;
  artifact.set_job_id(job_id);
  artifact.set_name(produced.name());
  artifact.set_export_(produced.export_());
  int64_t total_bytes = 0;
  for (const auto& [path, blob] : files) {
    v1::ArtifactFile& file = *artifact.add_files();
    file.set_path(path);
    *file.mutable_blob() = blob;
    total_bytes += blob.size_bytes();
  }
  artifact.set_total_bytes(total_bytes);
  if (!produced.manifest_file().empty()) {
    ASSIGN_OR_RETURN(*artifact.mutable_manifest(),
                     blobs.Publish(produced.manifest_file(), calls));
  }
  return artifact;
}

}  // namespace quantd::agent
