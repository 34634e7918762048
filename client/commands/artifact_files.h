// SPDX-License-Identifier: Apache-2.0
// The files of an artifact on this machine. Paths come from a server or from a
// manifest on disk and are trusted no further than CheckArtifactPath.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/rpc/client.h"
#include "quantd/v1/artifact.pb.h"

namespace quantd::commands {

// The manifest's name in a pulled folder, where no file of the artifact has it.
inline constexpr char kManifestName[] = "manifest.json";

// FAILED_PRECONDITION, ARTIFACT_PATH_UNSAFE for an absolute path, an empty or
// "." or ".." component, a backslash, a control character or too long a name.
absl::Status CheckArtifactPath(const std::string& path);

// What a pull writes: the files, then the manifest unless a file has its name.
// Every path is checked, and none occurs twice.
absl::StatusOr<std::vector<v1::ArtifactFile>> FilesToPull(
    const v1::Artifact& artifact);

// Streams `file` to `directory`/path, making folders; synced and verified.
absl::Status PullFile(rpc::Client& client, const v1::ArtifactFile& file,
                      const std::string& directory);

// The files that a pulled folder's manifest names. Its "files" is a list of
// objects with path, sha256 and size_bytes, or an object from path to the rest.
absl::StatusOr<std::vector<v1::ArtifactFile>> FilesOfManifest(
    const std::string& directory);

}  // namespace quantd::commands
