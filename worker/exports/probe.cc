// SPDX-License-Identifier: Apache-2.0
#include "worker/exports/probe.h"

#include <ATen/ops/arange.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/checkpoints/safetensors_writer.h"

namespace quantd::exports {
namespace {

constexpr int64_t kProbeTokens = 64;
// 16 MiB of float32.
constexpr int64_t kMaxLogits = int64_t{1} << 22;
// Prime, so that steps of it visit every id of a vocabulary.
constexpr int64_t kIdStride = 7919;

constexpr char kIdsTensor[] = "input_ids";
constexpr char kLogitsTensor[] = "logits";

absl::Status ReplaceLinears(const LinearOf& linear_of, models::Block* block) {
  for (const models::Stage& stage : block->stages()) {
    for (const std::string& name : stage.linears) {
      ASSIGN_OR_RETURN(std::unique_ptr<models::Linear> other,
                       linear_of(name, block->linear(name)));
      if (other != nullptr) block->Replace(name, std::move(other));
    }
  }
  return absl::OkStatus();
}

}  // namespace

at::Tensor ProbeIds(const at::Tensor& tokens, const models::Model& model) {
  const int64_t vocabulary = model.vocabulary_size();
  int64_t count = std::clamp<int64_t>(kMaxLogits / vocabulary, 1, kProbeTokens);
  if (model.context_length() > 0) {
    count = std::min(count, model.context_length());
  }
  if (tokens.defined()) {
    return tokens.select(0, 0)
        .narrow(0, 0, std::min(count, tokens.size(1)))
        .contiguous();
  }
  return at::arange(count, at::kLong).mul(kIdStride).remainder(vocabulary);
}

absl::StatusOr<at::Tensor> ProbeLogits(models::Model& model,
                                       const at::Tensor& ids,
                                       const ProbeChanges& changes,
                                       const base::CancelToken& cancel) {
  models::SequenceState state;
  ASSIGN_OR_RETURN(state.residual, model.Embed(ids));
  for (int64_t i = 0; i < model.num_blocks(); ++i) {
    RETURN_IF_ERROR(cancel.Check());
    ASSIGN_OR_RETURN(const auto block, model.LoadBlock(i, ids.size(0)));
    RETURN_IF_ERROR(ReplaceLinears(changes.linear_of, block.get()));
    if (changes.kv_rounding.keys) {
      block->RoundKeysAndValues(changes.kv_rounding);
    }
    block->Forward(&state);
  }
  ASSIGN_OR_RETURN(const at::Tensor normed, model.FinalNorm(state.residual));
  ASSIGN_OR_RETURN(std::unique_ptr<models::Linear> head, model.LoadHead());
  ASSIGN_OR_RETURN(std::unique_ptr<models::Linear> other,
                   changes.linear_of(model.HeadShape().name, *head));
  if (other != nullptr) head = std::move(other);
  return head->Apply(normed).cpu();
}

absl::Status WriteProbe(const std::string& path, const Probe& probe) {
  return checkpoints::WriteSafetensors(
      path,
      {{kIdsTensor, probe.ids}, {kLogitsTensor, probe.logits.contiguous()}});
}

absl::StatusOr<Probe> ReadProbe(const std::string& path) {
  ASSIGN_OR_RETURN(const checkpoints::TensorMap tensors,
                   checkpoints::ReadSafetensors(path));
  const auto ids = tensors.find(kIdsTensor);
  const auto logits = tensors.find(kLogitsTensor);
  if (ids == tensors.end() || logits == tensors.end() ||
      ids->second.scalar_type() != at::kLong || ids->second.dim() != 1 ||
      logits->second.dim() != 2 ||
      logits->second.size(0) != ids->second.size(0)) {
    return base::MakeError(absl::StatusCode::kDataLoss, "STEP_FILE_DAMAGED",
                           "the committed probe cannot be read");
  }
  return Probe{ids->second, logits->second};
}

}  // namespace quantd::exports
