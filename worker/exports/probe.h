// SPDX-License-Identifier: Apache-2.0
// A few tokens and the logits a model gives them: what an exported checkpoint
// must reproduce once it is read back.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/base/cancel.h"
#include "worker/models/model.h"

namespace quantd::exports {

struct Probe {
  // int64 [tokens].
  at::Tensor ids;
  // float32 [tokens, vocabulary].
  at::Tensor logits;
};

// What stands for a module, which is `own`; null: the model's own linear.
using LinearOf = std::function<absl::StatusOr<std::unique_ptr<models::Linear>>(
    const std::string& module, const models::Linear& own)>;

// How a model that is probed differs from the one it is.
struct ProbeChanges {
  LinearOf linear_of;
  // Empty: as the model does.
  formats::KvRounding kv_rounding = {};
};

// int64 [tokens]: the beginning of `tokens`' first row, or, where `tokens` is
// undefined, ids spread over the vocabulary. At most 64, fewer for very large
// vocabularies.
at::Tensor ProbeIds(const at::Tensor& tokens, const models::Model& model);

// Runs the model over `ids`, one block in memory at a time.
absl::StatusOr<at::Tensor> ProbeLogits(models::Model& model,
                                       const at::Tensor& ids,
                                       const ProbeChanges& changes,
                                       const base::CancelToken& cancel);

absl::Status WriteProbe(const std::string& path, const Probe& probe);
// DATA_LOSS, STEP_FILE_DAMAGED.
absl::StatusOr<Probe> ReadProbe(const std::string& path);

}  // namespace quantd::exports
