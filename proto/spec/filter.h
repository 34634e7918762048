// SPDX-License-Identifier: Apache-2.0
// The filter of ListJobs, a subset of AIP-160:
//
//   state = RUNNING AND (method = gptq OR method = rtn) AND NOT label.run = "x"
//
// Fields: state, kind, method, model, worker, label.<key>. Operators: = and !=
// compare whole values; `field:text` asks whether the value contains the text,
// `label:key` whether a label exists. OR binds tighter than AND, and words side
// by side are joined by AND. The result is a tree of plain values that the
// store turns into SQL with bound parameters; nothing of it is ever pasted.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::spec {

struct Filter {
  enum class Kind {
    kEverything,  // The empty filter.
    kAnd,         // All of `operands`.
    kOr,          // Any of `operands`.
    kNot,         // Not operands[0].
    kTerm,        // A comparison.
  };
  enum class Field { kState, kKind, kMethod, kModel, kWorker, kLabel };
  enum class Op {
    kEquals,
    kNotEquals,
    kContains,  // The value contains `value` (bytes, case-sensitive).
    kExists,    // The label is set; kLabel only.
  };

  Kind kind = Kind::kEverything;
  std::vector<Filter> operands;

  Field field = Field::kState;
  Op op = Op::kEquals;
  // The key, for kLabel.
  std::string label;
  // State names are upper case without a prefix, for example "RUNNING"; kinds
  // are "quantize" and "evaluate".
  std::string value;
};

inline constexpr size_t kMaxFilterBytes = 2048;
inline constexpr int kMaxFilterDepth = 16;
inline constexpr int kMaxFilterTerms = 64;

// INVALID_ARGUMENT, FILTER_INVALID, says what was met where.
absl::StatusOr<Filter> ParseFilter(absl::string_view text);

// Text that parses to the same tree.
std::string FilterText(const Filter& filter);

}  // namespace quantd::spec
