// SPDX-License-Identifier: Apache-2.0
// Everything about one job, for people.
#pragma once

#include <ostream>

#include "absl/time/time.h"
#include "client/render/terminal.h"
#include "quantd/v1/job.pb.h"

namespace quantd::render {

// Rows of name and value, then the report where there is one.
void PrintJobDetails(const v1::Job& job, const Terminal& terminal,
                     absl::Time now, std::ostream& out);

}  // namespace quantd::render
