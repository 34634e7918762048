// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoints/gguf_cursor.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "worker/checkpoints/gguf_header.h"

namespace quantd::checkpoints {
namespace {

constexpr int64_t kBufferBytes = int64_t{1} << 20;

absl::Status Truncated() {
  return RefuseGguf("GGUF_TRUNCATED", "the file ends within its header");
}

// The JSON parser is strict in UTF-8; what JSON would escape is not its matter.
bool IsUtf8(std::string text) {
  for (char& c : text) {
    const bool control = static_cast<unsigned char>(c) < ' ';
    if (c == '"' || c == '\\' || control) c = ' ';
  }
  return nlohmann::json::accept("\"" + text + "\"");
}

}  // namespace

absl::Status GgufCursor::Bytes(void* to, uint64_t count) {
  if (count > remaining()) return Truncated();
  char* next = static_cast<char*>(to);
  while (count > 0) {
    if (at_ == static_cast<int64_t>(buffer_.size())) RETURN_IF_ERROR(Fill());
    const uint64_t here =
        std::min<uint64_t>(count, buffer_.size() - static_cast<uint64_t>(at_));
    std::memcpy(next, buffer_.data() + at_, here);
    next += here;
    at_ += static_cast<int64_t>(here);
    count -= here;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> GgufCursor::String(uint64_t max_bytes) {
  ASSIGN_OR_RETURN(const uint64_t length, Value<uint64_t>());
  if (length > remaining()) return Truncated();
  if (length > max_bytes) {
    return RefuseGguf("GGUF_STRING_TOO_LONG",
                      absl::StrCat("a string of ", length, " bytes; at most ",
                                   max_bytes, " are allowed here"));
  }
  std::string text(length, '\0');
  RETURN_IF_ERROR(Bytes(text.data(), length));
  if (!IsUtf8(text)) return RefuseGguf("GGUF_UTF8", "a string is not UTF-8");
  return text;
}

absl::Status GgufCursor::Fill() {
  begin_ += at_;
  at_ = 0;
  ASSIGN_OR_RETURN(
      buffer_, file_.ReadString(begin_, std::min(kBufferBytes,
                                                 file_.size_bytes() - begin_)));
  return absl::OkStatus();
}

}  // namespace quantd::checkpoints
