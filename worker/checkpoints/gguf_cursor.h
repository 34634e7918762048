// SPDX-License-Identifier: Apache-2.0
// Reads the header of a GGUF file from its beginning. Nothing is allocated
// before the file was found to be long enough.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/base/status_macros.h"
#include "worker/checkpoints/input_file.h"

namespace quantd::checkpoints {

// One owner, one thread. `file` outlives it. Every failure to read is
// INVALID_ARGUMENT, GGUF_TRUNCATED.
class GgufCursor {
 public:
  explicit GgufCursor(const InputFile& file) : file_(file) {}

  int64_t position() const { return begin_ + at_; }
  uint64_t remaining() const {
    return static_cast<uint64_t>(file_.size_bytes() - position());
  }
  absl::Status Bytes(void* to, uint64_t count);

  // A little-endian number.
  template <typename T>
  absl::StatusOr<T> Value() {
    T value;
    RETURN_IF_ERROR(Bytes(&value, sizeof(value)));
    return value;
  }

  // A 64-bit length, then so many bytes of UTF-8. GGUF_STRING_TOO_LONG,
  // GGUF_UTF8.
  absl::StatusOr<std::string> String(uint64_t max_bytes);

 private:
  absl::Status Fill();

  const InputFile& file_;
  std::string buffer_;
  int64_t begin_ = 0;  // Of the buffer in the file.
  int64_t at_ = 0;     // In the buffer.
};

}  // namespace quantd::checkpoints
