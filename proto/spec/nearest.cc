// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/nearest.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/base/error.h"

namespace quantd::spec {
namespace {

// Levenshtein distance over bytes, one row at a time.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1,
                         diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

std::vector<std::string> NearestNames(
    absl::string_view word, const std::vector<std::string>& candidates,
    size_t limit) {
  std::vector<std::pair<size_t, std::string>> scored;
  for (const std::string& candidate : candidates) {
    scored.emplace_back(EditDistance(word, candidate), candidate);
  }
  std::sort(scored.begin(), scored.end());
  std::vector<std::string> result;
  for (const auto& [distance, candidate] : scored) {
    if (result.size() == limit) break;
    result.push_back(candidate);
  }
  return result;
}

absl::Status UnknownName(absl::string_view kind, absl::string_view id,
                         const std::vector<std::string>& candidates) {
  return base::MakeError(
      absl::StatusCode::kNotFound, "COMPONENT_UNKNOWN",
      absl::StrCat("no ", kind, " is called \"", id, "\"; the nearest are ",
                   absl::StrJoin(NearestNames(id, candidates), ", ")),
      {{"kind", std::string(kind)}, {"id", std::string(id)}});
}

}  // namespace quantd::spec
