// SPDX-License-Identifier: Apache-2.0
// Text of any origin for the string fields of messages. A reader refuses a
// whole message for one string that is not UTF-8.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace quantd::base {

// `text` with a `?` for every byte that is not part of valid UTF-8, such as
// those of a character that was cut.
std::string ToUtf8(absl::string_view text);

}  // namespace quantd::base
