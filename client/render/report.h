// SPDX-License-Identifier: Apache-2.0
// What a job measured and made, as text.
#pragma once

#include <map>
#include <ostream>
#include <string>

#include "client/render/terminal.h"
#include "quantd/v1/job.pb.h"
#include "quantd/v1/report.pb.h"

namespace quantd::render {

// "12.346 +/- 0.12"; the error is left out where it is 0.
std::string MetricWords(const Terminal& terminal, const v1::Metric& metric);

// "27 ok, 1 damped"; verdicts that no layer has are left out.
std::string VerdictCounts(const v1::JobReport& report);

// "ok", "damped", "rtn_fallback", "failed".
std::string VerdictName(v1::Verdict verdict);

// Sizes, verdicts, layers that are not ok with the reason, and a table of every
// metric of the float and the quantized model.
void PrintReport(const v1::JobReport& report, const Terminal& terminal,
                 std::ostream& out);

// How a finished job ended: headline, report, artifacts and how to get them.
void PrintResult(const v1::Job& job, const Terminal& terminal,
                 std::ostream& out);

}  // namespace quantd::render
