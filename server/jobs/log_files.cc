// SPDX-License-Identifier: Apache-2.0
#include "server/jobs/log_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::jobs {
namespace {

constexpr int64_t kMaxLogBytes = int64_t{64} << 20;

// Closes with the scope.
class File {
 public:
  File(const std::string& path, int flags)
      : fd_(open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, 0600)) {}
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  bool is_open() const { return fd_ >= 0; }
  int fd() const { return fd_; }
  int64_t size() const {
    struct stat info = {};
    return fstat(fd_, &info) == 0 ? info.st_size : 0;
  }

 private:
  const int fd_;
};

absl::Status WriteAt(int fd, int64_t offset, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t written = pwrite(fd, text.data(), text.size(), offset);
    if (written < 0) {
      if (errno == EINTR) continue;
      return base::ErrnoStatus(errno, "write a log");
    }
    text.remove_prefix(written);
    offset += written;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadAt(int fd, int64_t offset, int64_t count) {
  std::string text(count, '\0');
  int64_t filled = 0;
  while (filled < count) {
    const ssize_t got =
        pread(fd, text.data() + filled, count - filled, offset + filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return base::ErrnoStatus(errno, "read a log");
    if (got == 0) break;
    filled += got;
  }
  text.resize(filled);
  return text;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LogFiles>> LogFiles::Open(
    const std::string& root) {
  std::error_code error;
  std::filesystem::create_directories(root, error);
  if (error) return base::ErrnoStatus(error.value(), "create the log folder");
  return std::unique_ptr<LogFiles>(new LogFiles(root));
}

LogFiles::LogFiles(std::string root) : root_(std::move(root)) {}

absl::StatusOr<int64_t> LogFiles::Append(const std::string& job_id,
                                         int64_t epoch, int64_t offset,
                                         absl::string_view text) {
  absl::MutexLock lock(&append_mu_);
  return AppendLocked(job_id, epoch, offset, text);
}

absl::StatusOr<int64_t> LogFiles::AppendLocked(const std::string& job_id,
                                               int64_t epoch, int64_t offset,
                                               absl::string_view text) {
  std::error_code error;
  std::filesystem::create_directories(absl::StrCat(root_, "/", job_id), error);
  if (error) return base::ErrnoStatus(error.value(), "create a log folder");
  const File file(PathOf(job_id, epoch), O_WRONLY | O_CREAT);
  if (!file.is_open()) return base::ErrnoStatus(errno, "open a log");
  const int64_t size = file.size();
  const int64_t known = size - offset;
  // A hole, or nothing new: the answer says where to go on.
  if (offset < 0 || known < 0 || known >= static_cast<int64_t>(text.size())) {
    return size;
  }
  text.remove_prefix(known);
  if (size + static_cast<int64_t>(text.size()) > kMaxLogBytes) {
    return base::MakeError(absl::StatusCode::kResourceExhausted,
                           "LOG_TOO_LARGE",
                           "the log of this attempt has reached 64 MiB; the "
                           "rest is dropped");
  }
  RETURN_IF_ERROR(WriteAt(file.fd(), size, text));
  return size + static_cast<int64_t>(text.size());
}

absl::StatusOr<std::string> LogFiles::Read(const std::string& job_id,
                                           const std::vector<int64_t>& epochs,
                                           int64_t offset,
                                           int64_t max_bytes) const {
  std::string result;
  for (const int64_t epoch : epochs) {
    const int64_t wanted = max_bytes - static_cast<int64_t>(result.size());
    if (wanted <= 0) break;
    const File file(PathOf(job_id, epoch), O_RDONLY);
    if (!file.is_open()) continue;
    const int64_t size = file.size();
    if (offset < size) {
      ASSIGN_OR_RETURN(
          const std::string part,
          ReadAt(file.fd(), offset, std::min(wanted, size - offset)));
      result += part;
    }
    offset = std::max<int64_t>(0, offset - size);
  }
  return result;
}

std::string LogFiles::PathOf(const std::string& job_id, int64_t epoch) const {
  return absl::StrCat(root_, "/", job_id, "/", epoch, ".log");
}

}  // namespace quantd::jobs
