// SPDX-License-Identifier: Apache-2.0
// Early return on errors, for functions that return absl::Status or StatusOr.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define QUANTD_CONCAT_INNER(a, b) a##b
#define QUANTD_CONCAT(a, b) QUANTD_CONCAT_INNER(a, b)

// Returns the status of `expression` unless it is OK.
#define RETURN_IF_ERROR(expression)                  \
  do {                                               \
    absl::Status quantd_status_ = (expression);      \
    if (!quantd_status_.ok()) return quantd_status_; \
  } while (false)

// Assigns the value of a StatusOr to `target`, or returns its status.
#define ASSIGN_OR_RETURN(target, expression) \
  ASSIGN_OR_RETURN_IMPL(QUANTD_CONCAT(quantd_or_, __LINE__), target, expression)

#define ASSIGN_OR_RETURN_IMPL(holder, target, expression) \
  auto holder = (expression);                             \
  if (!holder.ok()) return std::move(holder).status();    \
  target = std::move(holder).value()
