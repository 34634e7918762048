// SPDX-License-Identifier: Apache-2.0
// The whole of qctl: arguments in, exit code out.
#pragma once

#include <string>
#include <vector>

#include "client/commands/session.h"

namespace quantd::commands {

// `arguments` without the program's name. See exit_codes.h for what is
// returned.
int Run(const std::vector<std::string>& arguments,
        const Surroundings& surroundings);

}  // namespace quantd::commands
