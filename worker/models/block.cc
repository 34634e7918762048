// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "worker/models/model.h"

namespace quantd::models {

absl::StatusOr<RotationPlan> Model::Rotation() const {
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "ROTATION_UNSUPPORTED",
      absl::StrCat("a model of the family ", family(),
                   " cannot be rotated without changing what it computes"));
}

void Block::Forward(SequenceState* state) const {
  Begin(state);
  const int64_t num_stages = static_cast<int64_t>(stages().size());
  for (int64_t stage = 0; stage < num_stages; ++stage) Apply(stage, state);
}

}  // namespace quantd::models
