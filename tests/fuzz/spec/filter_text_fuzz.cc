// SPDX-License-Identifier: Apache-2.0
// The filter of ListJobs: what is accepted keeps the limits and is written as
// text that reads back to the same clauses.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/string_view.h"
#include "proto/spec/filter.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using quantd::spec::FilterText;
  const auto clauses = quantd::spec::ParseFilter(
      absl::string_view(reinterpret_cast<const char*>(data), size));
  if (!clauses.ok()) return 0;
  size_t terms = 0;
  for (const auto& clause : *clauses) {
    if (clause.empty()) std::abort();
    terms += clause.size();
  }
  if (terms > quantd::spec::kMaxExpandedTerms) std::abort();
  const std::string text = FilterText(*clauses);
  if (text.size() > quantd::spec::kMaxFilterBytes ||
      terms > static_cast<size_t>(quantd::spec::kMaxFilterTerms)) {
    return 0;
  }
  const auto again = quantd::spec::ParseFilter(text);
  if (!again.ok() || FilterText(*again) != text) std::abort();
  return 0;
}
