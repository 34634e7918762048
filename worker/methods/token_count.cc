// SPDX-License-Identifier: Apache-2.0
#include "worker/methods/token_count.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "proto/spec/params.h"

namespace quantd::methods {

v1::Parameter MinTokensParameter() {
  return spec::DoubleParameter(
      "min_tokens", 0.005, 0, 1,
      "Fraction of the calibration tokens that must reach a layer; an expert "
      "with fewer is rounded to nearest.");
}

std::string TooFewTokens(const calibration::Statistics& statistics,
                         double min_fraction) {
  if (statistics.tokens <= 0) {
    return absl::StrCat("no calibration token reached the layer, 0 of ",
                        statistics.sampled_tokens);
  }
  const auto needed = static_cast<int64_t>(
      std::ceil(min_fraction * static_cast<double>(statistics.sampled_tokens)));
  if (statistics.tokens >= needed) return "";
  return absl::StrCat(statistics.tokens, " of ", statistics.sampled_tokens,
                      " calibration tokens reached the layer, and min_tokens ",
                      min_fraction, " asks for ", needed);
}

}  // namespace quantd::methods
