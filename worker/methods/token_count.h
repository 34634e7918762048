// SPDX-License-Identifier: Apache-2.0
// How many tokens a layer's statistics take to be used: an expert that the
// router rarely chooses is rounded to nearest instead.
#pragma once

#include <string>

#include "quantd/v1/catalog.pb.h"
#include "worker/calibration/gram.h"

namespace quantd::methods {

// "min_tokens", a fraction of the calibration tokens; what GPTQModel calls its
// fallback threshold, with its default of 0.5 %.
v1::Parameter MinTokensParameter();

// Why there are too few, with both counts; empty where there are enough.
std::string TooFewTokens(const calibration::Statistics& statistics,
                         double min_fraction);

}  // namespace quantd::methods
