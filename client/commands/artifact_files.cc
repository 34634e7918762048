// SPDX-License-Identifier: Apache-2.0
#include "client/commands/artifact_files.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/violation.h"

namespace quantd::commands {
namespace {

constexpr size_t kMaxPathBytes = 512;
constexpr int64_t kMaxManifestBytes = int64_t{64} << 20;

absl::Status Unsafe(const std::string& path) {
  return base::MakeError(
      absl::StatusCode::kFailedPrecondition, "ARTIFACT_PATH_UNSAFE",
      absl::StrCat("the artifact names a file \"", spec::Shortened(path),
                   "\" that would lie outside its folder; nothing was written"),
      {{"path", spec::Shortened(path)}});
}

absl::Status ManifestError(const std::string& what) {
  return base::MakeError(absl::StatusCode::kDataLoss, "ARTIFACT_DAMAGED",
                         absl::StrCat(kManifestName, ": ", what));
}

absl::Status WriteAll(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return base::ErrnoStatus(errno, "writing a pulled file");
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::ArtifactFile> FileOfEntry(const std::string& path,
                                             const nlohmann::json& entry) {
  const auto& blob = entry.contains("blob") ? entry["blob"] : entry;
  if (!blob.is_object() || !blob.contains("sha256") ||
      !blob["sha256"].is_string()) {
    return ManifestError("a file has no sha256");
  }
  v1::ArtifactFile file;
  file.set_path(path);
  file.mutable_blob()->set_sha256(blob["sha256"].get<std::string>());
  for (const char* name : {"size_bytes", "bytes", "size"}) {
    if (blob.contains(name) && blob[name].is_number_integer()) {
      file.mutable_blob()->set_size_bytes(blob[name].get<int64_t>());
    }
  }
  RETURN_IF_ERROR(CheckArtifactPath(path));
  return file;
}

}  // namespace

absl::Status CheckArtifactPath(const std::string& path) {
  if (path.empty() || path.size() > kMaxPathBytes) return Unsafe(path);
  for (const char c : path) {
    if (c == '\\' || absl::ascii_iscntrl(static_cast<unsigned char>(c))) {
      return Unsafe(path);
    }
  }
  for (const absl::string_view part : absl::StrSplit(path, '/')) {
    if (part.empty() || part == "." || part == "..") return Unsafe(path);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::ArtifactFile>> FilesToPull(
    const v1::Artifact& artifact) {
  std::vector<v1::ArtifactFile> files(artifact.files().begin(),
                                      artifact.files().end());
  std::set<std::string> paths;
  for (const v1::ArtifactFile& file : files) {
    RETURN_IF_ERROR(CheckArtifactPath(file.path()));
    if (!paths.insert(file.path()).second) return Unsafe(file.path());
  }
  if (artifact.has_manifest() && !paths.contains(kManifestName)) {
    v1::ArtifactFile& manifest = files.emplace_back();
    manifest.set_path(kManifestName);
    *manifest.mutable_blob() = artifact.manifest();
  }
  return files;
}

absl::Status PullFile(rpc::Client& client, const v1::ArtifactFile& file,
                      const std::string& directory) {
  const std::filesystem::path target =
      std::filesystem::path(directory) / file.path();
  std::error_code error;
  std::filesystem::create_directories(target.parent_path(), error);
  if (error) return base::ErrnoStatus(error.value(), "making a folder");
  const int fd =
      open(target.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return base::ErrnoStatus(errno, "creating a pulled file");
  absl::Status status = client.ReadBlob(
      file.blob(),
      [fd](absl::string_view bytes) { return WriteAll(fd, bytes); });
  if (status.ok() && fsync(fd) != 0) {
    status = base::ErrnoStatus(errno, "syncing a pulled file");
  }
  close(fd);
  return base::AddContext(status, file.path());
}

absl::StatusOr<std::vector<v1::ArtifactFile>> FilesOfManifest(
    const std::string& directory) {
  auto text =
      base::ReadFile(directory + "/" + kManifestName, kMaxManifestBytes);
  if (!text.ok()) return base::AddContext(text.status(), kManifestName);
  const auto json = nlohmann::json::parse(*text, nullptr, false);
  if (!json.is_object() || !json.contains("files")) {
    return ManifestError("it names no files");
  }
  std::vector<v1::ArtifactFile> files;
  for (const auto& [key, entry] : json["files"].items()) {
    const bool named = json["files"].is_object();
    if (!entry.is_object() ||
        (!named && !(entry.contains("path") && entry["path"].is_string()))) {
      return ManifestError("a file has no path");
    }
    const std::string path = named ? key : entry["path"].get<std::string>();
    ASSIGN_OR_RETURN(files.emplace_back(), FileOfEntry(path, entry));
  }
  return files;
}

}  // namespace quantd::commands
