// SPDX-License-Identifier: Apache-2.0
// "Did you mean": the known names closest to a mistyped one.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::spec {

// At most `limit` candidates by edit distance, closest first; ties by name.
std::vector<std::string> NearestNames(
    absl::string_view word, const std::vector<std::string>& candidates,
    size_t limit = 3);

// NOT_FOUND, COMPONENT_UNKNOWN: "no <kind> is called <id>; ...".
absl::Status UnknownName(absl::string_view kind, absl::string_view id,
                         const std::vector<std::string>& candidates);

// The row of a registry whose description has this id. Rows live as long as
// the program. `kind` is the seam's word, for example "method".
template <typename Entry>
absl::StatusOr<const Entry*> FindEntry(const std::vector<Entry>& registry,
                                       absl::string_view kind,
                                       absl::string_view id) {
  std::vector<std::string> ids;
  for (const Entry& entry : registry) {
    if (entry.description.id() == id) return &entry;
    ids.push_back(entry.description.id());
  }
  return UnknownName(kind, id, ids);
}

}  // namespace quantd::spec
