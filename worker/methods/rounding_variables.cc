// SPDX-License-Identifier: Apache-2.0
#include "worker/methods/rounding_variables.h"

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/methods/token_count.h"

namespace quantd::methods {

absl::StatusOr<const formats::Format*> FindIntegerFormat(
    const formats::WeightSpec& spec, absl::string_view method) {
  ASSIGN_OR_RETURN(const formats::Format* format,
                   formats::FindFormat(spec.format));
  if (format->level_rule() == nullptr) return format;
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "METHOD_FORMAT",
      absl::StrCat(method, " rounds to integers, and ", spec.format,
                   " is not an integer format"));
}

void RequireIntegers(v1::ComponentEntry* entry) {
  *entry->add_params() = MinTokensParameter();
  entry->add_provides("calibrated");
  entry->add_provides("format_grids");
  v1::Requirement* integer = entry->add_requirements();
  integer->set_seam(v1::SEAM_FORMAT);
  integer->set_property("integer");
  integer->set_why("it chooses between neighbouring integers");
  integer->set_suggestion("int2, int3, int4, int5, int6 or int8");
}

}  // namespace quantd::methods
