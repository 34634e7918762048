// SPDX-License-Identifier: Apache-2.0
// The filter of ListJobs, a subset of AIP-160:
//
//   state = RUNNING AND (method = gptq OR method = rtn) AND NOT label.run = "x"
//
// Fields: state, kind, method, model, worker, name, label.<key>. Operators: =
// and !=; `:` means =. OR binds tighter than AND, and words side by side are
// joined by AND. The result is plain values that the store binds as SQL
// parameters; nothing of the text is ever pasted.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::spec {

struct FilterTerm {
  enum class Field { kState, kKind, kMethod, kModel, kWorker, kName, kLabel };
  Field field = Field::kState;
  // True: the term holds where the value differs.
  bool negated = false;
  // The key, for kLabel.
  std::string label_key;
  // States are upper case without a prefix, for example "RUNNING"; kinds are
  // "quantize" and "evaluate".
  std::string value;
};

// All of the clauses hold, each by at least one of its terms. Empty:
// everything.
using FilterClauses = std::vector<std::vector<FilterTerm>>;

inline constexpr size_t kMaxFilterBytes = 2048;
inline constexpr int kMaxFilterDepth = 16;
inline constexpr int kMaxFilterTerms = 64;
// Of all clauses together, once brackets are multiplied out.
inline constexpr size_t kMaxExpandedTerms = 1024;

// INVALID_ARGUMENT, FILTER_INVALID, says what was met where.
absl::StatusOr<FilterClauses> ParseFilter(absl::string_view text);

// Text of the same clauses; parses back to them where it is within the limits.
std::string FilterText(const FilterClauses& clauses);

}  // namespace quantd::spec
