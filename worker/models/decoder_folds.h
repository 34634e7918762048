// SPDX-License-Identifier: Apache-2.0
// What a decoder's Shape says of its folds.
#pragma once

#include <cstdint>

#include "worker/models/folds.h"
#include "worker/models/shape.h"

namespace quantd::models {

BlockFolds PlanFolds(const Shape& shape, int64_t index);

// `tied`: the head has no tensor of its own.
RotationPlan PlanRotation(const Shape& shape, bool tied);

}  // namespace quantd::models
