// SPDX-License-Identifier: Apache-2.0
// A whole forward pass of one sequence.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "absl/status/statusor.h"
#include "proto/base/status_macros.h"
#include "worker/models/model.h"

namespace quantd::models {

struct ModelRun {
  // float32 [tokens, hidden]: the embedding, then the output of each block.
  std::vector<at::Tensor> residuals;
  // float32 [tokens, vocabulary]
  at::Tensor logits;
};

// `ids` int64 [tokens].
inline absl::StatusOr<ModelRun> RunModel(Model& model, const at::Tensor& ids) {
  ModelRun run;
  SequenceState state;
  ASSIGN_OR_RETURN(state.residual, model.Embed(ids));
  run.residuals.push_back(state.residual);
  for (int64_t i = 0; i < model.num_blocks(); ++i) {
    ASSIGN_OR_RETURN(const auto block, model.LoadBlock(i, ids.size(0)));
    block->Forward(&state);
    run.residuals.push_back(state.residual);
  }
  ASSIGN_OR_RETURN(const at::Tensor last, model.FinalNorm(state.residual));
  ASSIGN_OR_RETURN(const auto head, model.LoadHead());
  run.logits = head->Apply(last);
  return run;
}

}  // namespace quantd::models
