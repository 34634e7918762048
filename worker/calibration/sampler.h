// SPDX-License-Identifier: Apache-2.0
// Which tokens statistics are gathered from. The rule is written in
// docs/data.md and is the same on every machine.
#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "quantd/v1/recipe.pb.h"
#include "worker/data/documents.h"
#include "worker/tokenizers/tokenizer.h"

namespace quantd::calibration {

// int64 [num_samples, sequence_length]. INVALID_ARGUMENT,
// CALIBRATION_TOO_SHORT, naming how many tokens there are and how many are
// needed.
absl::StatusOr<at::Tensor> SampleTokens(const data::Corpus& corpus,
                                        const tokenizers::Tokenizer& tokenizer,
                                        const v1::Calibration& calibration);

}  // namespace quantd::calibration
