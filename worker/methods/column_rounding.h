// SPDX-License-Identifier: Apache-2.0
// The column loop of GPTQ over one layer in any number format: which grids are
// chosen when, the order of columns, and the result back in the original order.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "proto/base/cancel.h"
#include "worker/formats/format.h"
#include "worker/numerics/feedback_factor.h"

namespace quantd::methods {

struct ColumnRounding {
  formats::WeightSpec spec;
  // float32 [out, in] in original order; taken over and changed.
  at::Tensor weight;
  // int64 [in]: the order in which columns are rounded; undefined: as they are.
  at::Tensor permutation;
  // Groups are those of the original order, their grids chosen from the weights
  // as they are. Else groups are formed in processing order; integer grids of
  // the default kind are then chosen from corrected weights as the loop reaches
  // them, all others beforehand.
  bool static_groups = false;
  int64_t block_size = 128;
};

// `factor` is in processing order. Nothing where error feedback grew beyond all
// bounds. CANCELLED; errors of formats::Format::ChooseGrids.
absl::StatusOr<std::optional<formats::QuantizedLinear>> RoundColumns(
    const ColumnRounding& rounding, const numerics::FeedbackFactor& factor,
    const base::CancelToken& cancel);

}  // namespace quantd::methods
