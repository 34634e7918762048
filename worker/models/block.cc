// SPDX-License-Identifier: Apache-2.0
#include "worker/models/model.h"

namespace quantd::models {

void Block::Forward(SequenceState* state) const {
  Begin(state);
  const int64_t num_stages = static_cast<int64_t>(stages().size());
  for (int64_t stage = 0; stage < num_stages; ++stage) Apply(stage, state);
}

}  // namespace quantd::models
