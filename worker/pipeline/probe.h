// SPDX-License-Identifier: Apache-2.0
// A few tokens and the logits a model gives them: what an exported checkpoint
// must reproduce once it is read back.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/base/cancel.h"
#include "worker/models/model.h"

namespace quantd::pipeline {

struct Probe {
  // int64 [tokens].
  at::Tensor ids;
  // float32 [tokens, vocabulary].
  at::Tensor logits;
};

// The float32 weight to use for a module; undefined: the model's own.
using WeightOf =
    std::function<absl::StatusOr<at::Tensor>(const std::string& module)>;

// int64 [tokens]: the beginning of `tokens`' first row, or, where `tokens` is
// undefined, ids spread over the vocabulary. At most 64, fewer for very large
// vocabularies.
at::Tensor ProbeIds(const at::Tensor& tokens, const models::Model& model);

// Runs the model over `ids`, one block in memory at a time.
absl::StatusOr<at::Tensor> ProbeLogits(models::Model& model,
                                       const at::Tensor& ids,
                                       const WeightOf& weight_of,
                                       const base::CancelToken& cancel);

absl::Status WriteProbe(const std::string& path, const Probe& probe);
// DATA_LOSS, STEP_FILE_DAMAGED.
absl::StatusOr<Probe> ReadProbe(const std::string& path);

}  // namespace quantd::pipeline
