// SPDX-License-Identifier: Apache-2.0
#include "worker/data/rows.h"

namespace quantd::data {
namespace {

// The bytes of the sequence at the start of `text` (not empty); 0 where it is
// none: cut off, overlong, a surrogate or above U+10FFFF (RFC 3629, section 4).
size_t SequenceLength(absl::string_view text) {
  const auto byte = [&](size_t i) -> unsigned {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const auto tail = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const auto between = [&](unsigned low, unsigned high) {
    return byte(1) >= low && byte(1) <= high;
  };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  if (first < 0xe0) return tail(1) ? 2 : 0;
  if (first < 0xf0) {
    const unsigned low = first == 0xe0 ? 0xa0 : 0x80;
    const unsigned high = first == 0xed ? 0x9f : 0xbf;
    return between(low, high) && tail(2) ? 3 : 0;
  }
  const unsigned low = first == 0xf0 ? 0x90 : 0x80;
  const unsigned high = first == 0xf4 ? 0x8f : 0xbf;
  return between(low, high) && tail(2) && tail(3) ? 4 : 0;
}

}  // namespace

int64_t FirstInvalidUtf8(absl::string_view text) {
  size_t offset = 0;
  while (offset < text.size()) {
    const size_t length = SequenceLength(text.substr(offset));
    if (length == 0) return static_cast<int64_t>(offset);
    offset += length;
  }
  return -1;
}

}  // namespace quantd::data
