// SPDX-License-Identifier: Apache-2.0
// An error for a person: what, where, why and what to do next.
#pragma once

#include <ostream>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/render/terminal.h"

namespace quantd::render {

// "error: <message> [REASON]", a line per violation of google.rpc.BadRequest,
// then "next: <hint>" where there is a hint.
void PrintError(const absl::Status& status, absl::string_view hint,
                const Terminal& terminal, std::ostream& err);

}  // namespace quantd::render
