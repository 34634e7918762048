// SPDX-License-Identifier: Apache-2.0
// A weights file that is read by position. Read, not mapped: a file that gets
// shorter while it is open is then an error and not a SIGBUS.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/base/digest.h"

namespace quantd::checkpoints {

// An open regular file. Thread-safe.
class InputFile {
 public:
  // Follows links, as model caches are made of them, but only to a regular
  // file. NOT_FOUND; INVALID_ARGUMENT, NOT_A_REGULAR_FILE.
  static absl::StatusOr<std::unique_ptr<InputFile>> Open(
      const std::string& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  // At the time of Open.
  int64_t size_bytes() const { return size_bytes_; }
  // Exactly `count` bytes from `offset`. FAILED_PRECONDITION, FILE_TRUNCATED,
  // where the file ends before.
  absl::Status ReadAt(int64_t offset, int64_t count, void* to) const;
  // The same as a string, of at most what the file holds.
  absl::StatusOr<std::string> ReadString(int64_t offset, int64_t count) const;
  // Adds the whole file to `digest`.
  absl::Status AddTo(base::Sha256* digest) const;

 private:
  InputFile(int fd, int64_t size_bytes) : fd_(fd), size_bytes_(size_bytes) {}

  const int fd_;
  const int64_t size_bytes_;
};

// True where `head`, the first bytes of a file, begin like a pickle or a zip
// archive, the two forms of torch.save.
bool LooksLikePickle(absl::string_view head);

// INVALID_ARGUMENT, PICKLE_REFUSED.
absl::Status PickleRefused();

// The first at most 16 bytes of a regular file; empty where there is none.
std::string FileHead(const std::string& path);

}  // namespace quantd::checkpoints
