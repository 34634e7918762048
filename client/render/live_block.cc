// SPDX-License-Identifier: Apache-2.0
#include "client/render/live_block.h"

#include "absl/strings/str_cat.h"

namespace quantd::render {
namespace {

constexpr char kHideCursor[] = "\x1b[?25l";
constexpr char kShowCursor[] = "\x1b[?25h";
constexpr char kClearToEndOfLine[] = "\x1b[K";
constexpr char kClearToEndOfScreen[] = "\x1b[J";

// To the first column of the block's first line.
std::string ToTop(size_t lines) {
  return lines == 0 ? "\r" : absl::StrCat("\r\x1b[", lines, "A");
}

std::string Frame(const std::vector<std::string>& lines) {
  std::string frame;
  for (const std::string& line : lines) {
    absl::StrAppend(&frame, line, kClearToEndOfLine, "\n");
  }
  return absl::StrCat(frame, kClearToEndOfScreen);
}

}  // namespace

LiveBlock::LiveBlock(std::ostream& out) : out_(out) {
  out_ << kHideCursor << std::flush;
}

LiveBlock::~LiveBlock() { Close(); }

void LiveBlock::Draw(const std::vector<std::string>& lines) {
  if (closed_) return;
  out_ << absl::StrCat(ToTop(lines_.size()), Frame(lines)) << std::flush;
  lines_ = lines;
}

void LiveBlock::PrintAbove(const std::string& line) {
  if (closed_) return;
  out_ << absl::StrCat(ToTop(lines_.size()), line, kClearToEndOfLine, "\n",
                       Frame(lines_))
       << std::flush;
}

void LiveBlock::Close() {
  if (closed_) return;
  closed_ = true;
  out_ << absl::StrCat(ToTop(lines_.size()), kClearToEndOfScreen, kShowCursor)
       << std::flush;
}

}  // namespace quantd::render
