// SPDX-License-Identifier: Apache-2.0
// The gradient of a model's loss on a sequence, its next-token cross-entropy
// summed over the tokens but the last, block by block from the head back.
#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "worker/models/model.h"
#include "worker/models/open_block.h"

namespace quantd::models {

// By `hidden`, float32 [tokens, hidden] behind the last block. `ids`: int64
// [tokens], the sequence. Memory holds 64 MiB of logits.
absl::StatusOr<at::Tensor> HeadGradient(Model& model, const Linear& head,
                                        const at::Tensor& hidden,
                                        const at::Tensor& ids);

// By a block's input, where `gradient` is that by what it makes of `input`; all
// float32 [tokens, hidden].
at::Tensor InputGradient(const OpenBlock& block, const at::Tensor& input,
                         const at::Tensor& gradient);

}  // namespace quantd::models
