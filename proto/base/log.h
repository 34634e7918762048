// SPDX-License-Identifier: Apache-2.0
// Logging: spdlog's default logger, set up once by each main. Lines go to
// standard error, so that standard output stays for results.
#pragma once

#include <string>

#include "spdlog/spdlog.h"

namespace quantd::base {

// `program` starts every line; `level` is trace, debug, info, warning, error or
// off (unknown words mean info).
void SetUpLog(const std::string& program, const std::string& level);

}  // namespace quantd::base
