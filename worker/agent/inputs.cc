// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/inputs.h"

#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::agent {
namespace {

namespace fs = std::filesystem;

absl::Status MakeDirectories(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return base::ErrnoStatus(error.value(), "creating a work folder");
  return absl::OkStatus();
}

std::set<std::string> NeededBlobs(const v1::Assignment& assignment) {
  std::set<std::string> needed;
  std::string activations;
  for (const v1::Step& step : assignment.committed()) {
    for (const auto& [role, blob] : step.blobs()) {
      if (role == kActivationsRole) {
        activations = blob.sha256();
      } else {
        needed.insert(blob.sha256());
      }
    }
  }
  if (!activations.empty()) needed.insert(activations);
  return needed;
}

bool StaysInside(const std::string& path) {
  for (absl::string_view part : absl::StrSplit(path, '/')) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return true;
}

// Readers of checkpoints find files by name, so that the artifact becomes a
// folder of links to its blobs.
absl::StatusOr<std::string> LinkUnderName(const std::string& folder,
                                          const std::string& name,
                                          const std::string& target) {
  if (!StaysInside(name)) {
    return base::MakeError(absl::StatusCode::kInvalidArgument,
                           "ARTIFACT_PATH_INVALID",
                           "a file of the artifact has a name that leaves the "
                           "artifact's folder");
  }
  const std::string path = absl::StrCat(folder, "/", name);
  RETURN_IF_ERROR(MakeDirectories(fs::path(path).parent_path()));
  std::error_code error;
  fs::create_symlink(target, path, error);
  if (error) return base::ErrnoStatus(error.value(), "linking an input");
  return path;
}

absl::Status FetchSource(const v1::Artifact& artifact,
                         const std::string& work_path, BlobTransfer& blobs,
                         base::BlobDirectory& cache, CallGroup& calls,
                         v1::StartJob& start) {
  for (const v1::ArtifactFile& file : artifact.files()) {
    const std::string& sha256 = file.blob().sha256();
    ASSIGN_OR_RETURN(const std::string path, blobs.Fetch(sha256, cache, calls));
    ASSIGN_OR_RETURN(
        const std::string named,
        LinkUnderName(absl::StrCat(work_path, "/source"), file.path(), path));
    (*start.mutable_blob_files())[sha256] = path;
    (*start.mutable_source_files())[file.path()] = named;
  }
  if (artifact.has_manifest()) {
    const std::string& sha256 = artifact.manifest().sha256();
    ASSIGN_OR_RETURN(const std::string path, blobs.Fetch(sha256, cache, calls));
    (*start.mutable_blob_files())[sha256] = path;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::StartJob> PrepareStart(const v1::Assignment& assignment,
                                          const std::string& work_path,
                                          BlobTransfer& blobs,
                                          CallGroup& calls) {
  v1::StartJob start;
  *start.mutable_spec() = assignment.spec();
  *start.mutable_committed() = assignment.committed();
  start.set_work_directory(absl::StrCat(work_path, "/files"));
  RETURN_IF_ERROR(MakeDirectories(start.work_directory()));
  ASSIGN_OR_RETURN(
      const std::unique_ptr<base::BlobDirectory> cache,
      base::BlobDirectory::Open(absl::StrCat(work_path, "/blobs")));
  for (const std::string& sha256 : NeededBlobs(assignment)) {
    ASSIGN_OR_RETURN(const std::string path,
                     blobs.Fetch(sha256, *cache, calls));
    (*start.mutable_blob_files())[sha256] = path;
  }
  RETURN_IF_ERROR(FetchSource(assignment.source_artifact(), work_path, blobs,
                              *cache, calls, start));
  return start;
}

}  // namespace quantd::agent
