// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoints/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::checkpoints {
namespace {

// Linux transfers at most 2 GiB - 4 KiB per call.
constexpr int64_t kMaxTransferBytes = int64_t{1} << 30;
constexpr int64_t kDigestBlockBytes = int64_t{4} << 20;
constexpr int64_t kHeadBytes = 16;

}  // namespace

absl::StatusOr<std::unique_ptr<InputFile>> InputFile::Open(
    const std::string& path) {
  // Non-blocking, so that a FIFO in the place of a file does not hang us.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return base::ErrnoStatus(errno, "opening a weights file");
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return base::MakeError(absl::StatusCode::kInvalidArgument,
                           "NOT_A_REGULAR_FILE",
                           "the weights are not a regular file");
  }
  return std::unique_ptr<InputFile>(new InputFile(fd, info.st_size));
}

InputFile::~InputFile() { close(fd_); }

absl::Status InputFile::ReadAt(int64_t offset, int64_t count, void* to) const {
  char* next = static_cast<char*>(to);
  while (count > 0) {
    const ssize_t got =
        pread(fd_, next,
              static_cast<size_t>(std::min(count, kMaxTransferBytes)), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return base::ErrnoStatus(errno, "reading a weights file");
    if (got == 0) {
      return base::MakeError(
          absl::StatusCode::kFailedPrecondition, "FILE_TRUNCATED",
          "a weights file ends before the data it announced");
    }
    next += got;
    offset += got;
    count -= got;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> InputFile::ReadString(int64_t offset,
                                                  int64_t count) const {
  if (offset < 0 || count < 0 || offset > size_bytes_ ||
      count > size_bytes_ - offset) {
    return base::MakeError(absl::StatusCode::kFailedPrecondition,
                           "FILE_TRUNCATED",
                           "a weights file ends before its header does");
  }
  std::string bytes(static_cast<size_t>(count), '\0');
  RETURN_IF_ERROR(ReadAt(offset, count, bytes.data()));
  return bytes;
}

absl::Status InputFile::AddTo(base::Sha256* digest) const {
  std::vector<char> block(
      static_cast<size_t>(std::min(size_bytes_, kDigestBlockBytes)));
  for (int64_t offset = 0; offset < size_bytes_; offset += kDigestBlockBytes) {
    const int64_t count = std::min(kDigestBlockBytes, size_bytes_ - offset);
    RETURN_IF_ERROR(ReadAt(offset, count, block.data()));
    digest->Update({block.data(), static_cast<size_t>(count)});
  }
  return absl::OkStatus();
}

bool LooksLikePickle(absl::string_view head) {
  // A protocol 2 pickle begins 0x80 0x02, and so does a safetensors header of
  // 640 bytes; only the latter goes on with zeros.
  const bool pickle = head.size() >= 8 && head[0] == '\x80' && head[1] >= 2 &&
                      head[1] <= 5 &&
                      head.substr(4, 4) != absl::string_view("\0\0\0\0", 4);
  return pickle || absl::StartsWith(head, "PK\x03\x04");
}

absl::Status PickleRefused() {
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "PICKLE_REFUSED",
      "the weights are a pickle or a zip archive (torch.save), which can run "
      "code when it is read; convert them to safetensors");
}

std::string FileHead(const std::string& path) {
  auto file = InputFile::Open(path);
  if (!file.ok()) return "";
  auto head =
      (*file)->ReadString(0, std::min(kHeadBytes, (*file)->size_bytes()));
  return head.ok() ? *std::move(head) : "";
}

}  // namespace quantd::checkpoints
