// SPDX-License-Identifier: Apache-2.0
#include "proto/base/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/ids.h"
#include "proto/base/status_macros.h"

namespace quantd::base {
namespace {

absl::Status WriteAndSync(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, "writing a file");
    bytes.remove_prefix(count);
  }
  // A failed sync may have dropped the pages: never retried, never trusted.
  if (fdatasync(fd) != 0) return ErrnoStatus(errno, "syncing a file");
  return absl::OkStatus();
}

}  // namespace

absl::Status ErrnoStatus(int error, absl::string_view what) {
  const std::string message = absl::StrCat(what, ": ", std::strerror(error));
  if (error == ENOSPC || error == EDQUOT) {
    return MakeError(absl::StatusCode::kResourceExhausted, "DISK_FULL",
                     message);
  }
  if (error == ENOENT) {
    return MakeError(absl::StatusCode::kNotFound, "FILE_NOT_FOUND", message);
  }
  return MakeError(absl::StatusCode::kUnavailable, "FILE_ERROR", message);
}

absl::Status SyncDirectory(const std::string& directory) {
  const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "opening a directory");
  const int result = fsync(fd);
  const int error = errno;
  close(fd);
  if (result != 0) return ErrnoStatus(error, "syncing a directory");
  return absl::OkStatus();
}

absl::Status WriteFileAtomically(const std::string& path,
                                 absl::string_view bytes) {
  const std::string parent = std::filesystem::path(path).parent_path();
  const std::string temporary =
      absl::StrCat(path, ".", IdGenerator::Real().NewJobId(), ".tmp");
  const int fd =
      open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "creating a file");
  absl::Status status = WriteAndSync(fd, bytes);
  if (close(fd) != 0 && status.ok()) status = ErrnoStatus(errno, "closing");
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    status = ErrnoStatus(errno, "renaming a file");
  }
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  return SyncDirectory(parent.empty() ? "." : parent);
}

absl::StatusOr<std::string> ReadFile(const std::string& path,
                                     int64_t max_bytes) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus(errno, "opening a file");
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return MakeError(absl::StatusCode::kInvalidArgument, "NOT_A_REGULAR_FILE",
                     "a regular file was expected");
  }
  if (info.st_size > max_bytes) {
    close(fd);
    return MakeError(absl::StatusCode::kInvalidArgument, "FILE_TOO_LARGE",
                     absl::StrCat("a file has ", info.st_size,
                                  " bytes; at most ", max_bytes, " are read"));
  }
  std::string bytes(info.st_size, '\0');
  size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t count =
        read(fd, bytes.data() + filled, bytes.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int error = errno;
      close(fd);
      return ErrnoStatus(error, "reading a file");
    }
    if (count == 0) break;
    filled += count;
  }
  close(fd);
  bytes.resize(filled);
  return bytes;
}

}  // namespace quantd::base
