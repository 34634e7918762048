// SPDX-License-Identifier: Apache-2.0
// A filter as SQL with bound parameters: no word of a user is ever part of the
// statement's text.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/store/records.h"

namespace quantd::store {

struct FilterSql {
  // A condition over `jobs`; "1" for an empty filter.
  std::string condition;
  // One per "?" in `condition`, in order.
  std::vector<std::string> parameters;
};

// INVALID_ARGUMENT, JOB_STATE_UNKNOWN.
absl::StatusOr<FilterSql> ToSql(const JobFilter& filter);

}  // namespace quantd::store
