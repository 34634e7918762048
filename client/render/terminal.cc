// SPDX-License-Identifier: Apache-2.0
#include "client/render/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace quantd::render {
namespace {

constexpr int kDefaultWidth = 80;

int CurrentWidth() {
  winsize size = {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) {
    return kDefaultWidth;
  }
  return size.ws_col;
}

bool IsContinuationByte(char byte) {
  return (static_cast<unsigned char>(byte) & 0xc0) == 0x80;
}

// The end of the escape sequence that starts at `i`, or `i` where none does.
size_t SkipEscape(absl::string_view text, size_t i) {
  if (text[i] != '\x1b') return i;
  while (i < text.size() && !absl::ascii_isalpha(text[i])) ++i;
  return i < text.size() ? i + 1 : i;
}

}  // namespace

Terminal DetectTerminal(
    const std::function<std::string(const std::string&)>& getenv) {
  Terminal terminal;
  terminal.width = CurrentWidth;
  const bool dumb = getenv("TERM") == "dumb" || getenv("TERM").empty();
  terminal.interactive = isatty(STDOUT_FILENO) == 1 && !dumb;
  terminal.color = terminal.interactive && getenv("NO_COLOR").empty();
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const std::string locale = absl::AsciiStrToLower(getenv(name));
    if (locale.empty()) continue;
    terminal.unicode =
        absl::StrContains(locale, "utf-8") || absl::StrContains(locale, "utf8");
    break;
  }
  return terminal;
}

std::string Paint(const Terminal& terminal, Color color,
                  absl::string_view text) {
  if (!terminal.color || color == Color::kNone) return std::string(text);
  const char* code = "0";
  switch (color) {
    case Color::kRed:
      code = "31";
      break;
    case Color::kGreen:
      code = "32";
      break;
    case Color::kYellow:
      code = "33";
      break;
    case Color::kCyan:
      code = "36";
      break;
    case Color::kBold:
      code = "1";
      break;
    case Color::kDim:
      code = "2";
      break;
    case Color::kNone:
      break;
  }
  return absl::StrCat("\x1b[", code, "m", text, "\x1b[0m");
}

std::string Printable(absl::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) c = '?';
  }
  return result;
}

int DisplayWidth(absl::string_view text) {
  int width = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t after = SkipEscape(text, i);
    if (after != i) {
      i = after;
      continue;
    }
    if (!IsContinuationByte(text[i])) ++width;
    ++i;
  }
  return width;
}

std::string Truncate(absl::string_view text, int width) {
  constexpr int kDots = 3;
  if (DisplayWidth(text) <= width) return std::string(text);
  const int keep = width > kDots ? width - kDots : 0;
  std::string result;
  bool escaped = false;
  int columns = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t after = SkipEscape(text, i);
    if (after != i) {
      escaped = true;
      absl::StrAppend(&result, text.substr(i, after - i));
      i = after;
      continue;
    }
    if (!IsContinuationByte(text[i]) && columns++ == keep) break;
    result += text[i++];
  }
  absl::StrAppend(&result,
                  std::string(static_cast<size_t>(std::min(width, kDots)), '.'),
                  escaped ? "\x1b[0m" : "");
  return result;
}

}  // namespace quantd::render
