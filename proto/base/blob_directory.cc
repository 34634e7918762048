// SPDX-License-Identifier: Apache-2.0
#include "proto/base/blob_directory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "proto/base/digest.h"
#include "proto/base/error.h"
#include "proto/base/ids.h"
#include "proto/base/status_macros.h"

namespace quantd::base {
namespace {

namespace fs = std::filesystem;

bool IsDigest(absl::string_view text) {
  return text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

absl::Status MakeDirectories(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return ErrnoStatus(error.value(), "creating a directory");
  return absl::OkStatus();
}

absl::Status SyncFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "opening a blob");
  const int result = fdatasync(fd);
  const int error = errno;
  close(fd);
  if (result != 0) return ErrnoStatus(error, "syncing a blob");
  return absl::OkStatus();
}

// By the inode's change time, which linking and renaming set and nobody can set
// back. False for what is no regular file or is gone.
bool IsOlder(const std::string& path, absl::Time cutoff) {
  struct stat info;
  return lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
         absl::TimeFromTimespec(info.st_ctim) < cutoff;
}

}  // namespace

BlobDirectory::BlobDirectory(std::string root) : root_(std::move(root)) {}

absl::StatusOr<std::unique_ptr<BlobDirectory>> BlobDirectory::Open(
    const std::string& root) {
  RETURN_IF_ERROR(MakeDirectories(absl::StrCat(root, "/tmp")));
  RETURN_IF_ERROR(MakeDirectories(absl::StrCat(root, "/sha256")));
  return std::unique_ptr<BlobDirectory>(new BlobDirectory(root));
}

std::string BlobDirectory::NewTemporaryPath() const {
  return absl::StrCat(root_, "/tmp/", IdGenerator::Real().NewJobId());
}

absl::StatusOr<std::string> BlobDirectory::PathOf(
    absl::string_view sha256) const {
  if (!IsDigest(sha256)) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BLOB_NAME_INVALID",
                     "a blob is named by 64 lower-case hexadecimal digits");
  }
  return absl::StrCat(root_, "/sha256/", sha256.substr(0, 2), "/", sha256);
}

bool BlobDirectory::Has(absl::string_view sha256) const {
  const absl::StatusOr<std::string> path = PathOf(sha256);
  return path.ok() && access(path->c_str(), R_OK) == 0;
}

absl::Status BlobDirectory::Publish(const std::string& temporary_path,
                                    const Blob& blob) {
  ASSIGN_OR_RETURN(const std::string path, PathOf(blob.sha256));
  const std::string shard = fs::path(path).parent_path();
  RETURN_IF_ERROR(MakeDirectories(shard));
  chmod(temporary_path.c_str(), 0444);
  if (rename(temporary_path.c_str(), path.c_str()) != 0) {
    return ErrnoStatus(errno, "renaming a blob");
  }
  RETURN_IF_ERROR(SyncDirectory(shard));
  return SyncDirectory(absl::StrCat(root_, "/sha256"));
}

absl::StatusOr<Blob> BlobDirectory::Adopt(const std::string& temporary_path,
                                          absl::string_view expected_sha256) {
  RETURN_IF_ERROR(SyncFile(temporary_path));
  ASSIGN_OR_RETURN(const FileDigest digest, DigestFile(temporary_path));
  if (!expected_sha256.empty() && digest.sha256 != expected_sha256) {
    unlink(temporary_path.c_str());
    return MakeError(absl::StatusCode::kDataLoss, "BLOB_DIGEST_MISMATCH",
                     "the bytes of a blob do not have the digest it was "
                     "announced with");
  }
  Blob blob{digest.sha256, digest.size_bytes};
  RETURN_IF_ERROR(Publish(temporary_path, blob));
  return blob;
}

absl::StatusOr<Blob> BlobDirectory::AddFile(const std::string& path) {
  const std::string temporary = NewTemporaryPath();
  // A link shares the inode: the source must not be written to afterwards,
  // which holds for runner output. Across devices the bytes are copied.
  if (link(path.c_str(), temporary.c_str()) != 0) {
    std::error_code error;
    fs::copy_file(path, temporary, error);
    if (error) {
      unlink(temporary.c_str());
      return ErrnoStatus(error.value(), "copying a file into the blob store");
    }
  }
  return Adopt(temporary);
}

absl::StatusOr<Blob> BlobDirectory::AddBytes(absl::string_view bytes) {
  const std::string temporary = NewTemporaryPath();
  RETURN_IF_ERROR(WriteFileAtomically(temporary, bytes));
  return Adopt(temporary);
}

absl::Status BlobDirectory::Remove(absl::string_view sha256) {
  ASSIGN_OR_RETURN(const std::string path, PathOf(sha256));
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return ErrnoStatus(errno, "removing a blob");
  }
  return absl::OkStatus();
}

std::vector<std::string> BlobDirectory::OlderThan(int shard,
                                                  absl::Time cutoff) const {
  const std::string folder =
      absl::StrCat(root_, "/sha256/",
                   absl::Hex(static_cast<unsigned>(shard), absl::kZeroPad2));
  std::vector<std::string> old;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (IsDigest(name) && IsOlder(entry->path(), cutoff)) old.push_back(name);
  }
  return old;
}

bool BlobDirectory::RemoveOlderThan(absl::string_view sha256,
                                    absl::Time cutoff) {
  const absl::StatusOr<std::string> path = PathOf(sha256);
  return path.ok() && IsOlder(*path, cutoff) && unlink(path->c_str()) == 0;
}

int64_t BlobDirectory::RemoveTemporaries(absl::Time cutoff) {
  int64_t removed = 0;
  std::error_code error;
  for (fs::directory_iterator entry(root_ + "/tmp", error), end;
       !error && entry != end; entry.increment(error)) {
    const std::string path = entry->path();
    if (IsOlder(path, cutoff) && unlink(path.c_str()) == 0) ++removed;
  }
  return removed;
}

}  // namespace quantd::base
