// SPDX-License-Identifier: Apache-2.0
// What the place that output goes to can show.
#pragma once

#include <functional>
#include <string>

#include "absl/strings/string_view.h"

namespace quantd::render {

struct Terminal {
  // Standard output is a terminal that can move its cursor.
  bool interactive = false;
  bool color = false;
  // The locale is UTF-8.
  bool unicode = false;
  // Columns now; asked for again at every redraw.
  std::function<int()> width = [] { return 80; };
};

// The terminal behind file descriptor 1. TERM=dumb and NO_COLOR (any value
// that is not empty) are honoured; `getenv` reads the environment.
Terminal DetectTerminal(
    const std::function<std::string(const std::string&)>& getenv);

enum class Color { kNone, kRed, kGreen, kYellow, kCyan, kBold, kDim };

// `text` in a colour, where the terminal has colours.
std::string Paint(const Terminal& terminal, Color color,
                  absl::string_view text);

// `text` without control characters, which names of models, modules and
// workers might carry to a terminal; each becomes '?'.
std::string Printable(absl::string_view text);

// The columns `text` takes: code points, escape sequences of Paint not counted.
int DisplayWidth(absl::string_view text);

// At most `width` columns of `text`, ending in "..." where it was cut.
std::string Truncate(absl::string_view text, int width);

}  // namespace quantd::render
