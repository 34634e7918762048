// SPDX-License-Identifier: Apache-2.0
// The one scoring primitive: log-probabilities of given tokens after given
// tokens. The model is run a block at a time, each block loaded once for as
// many windows as fit a memory budget and then freed, so that a model larger
// than memory is scored.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/base/cancel.h"
#include "worker/models/model.h"

namespace quantd::evals {

// Tokens whose model input is one sequence.
struct Window {
  std::vector<int64_t> ids;
  // Tokens from here to the end are scored, each after all before it. At least
  // 1: the first token has nothing to be predicted from.
  int64_t first_scored = 1;
};

// Of one window.
struct WindowScore {
  // Negative log-probability (natural) of each scored token.
  std::vector<double> losses;
  // Every scored token is the most probable one (the lowest id on a tie).
  bool is_greedy = true;
};

struct ScoreOptions {
  // Bytes of hidden states that are kept at once.
  int64_t activation_bytes = int64_t{1} << 30;
  // Bytes of logits that are made at once.
  int64_t logit_bytes = int64_t{64} << 20;
  // Windows of different lengths are not run together: some rope scalings
  // depend on the longest sequence of a batch.
  bool group_by_length = true;
  // Called with (done, total) windows after each block; may be empty.
  std::function<void(int64_t, int64_t)> progress;
};

// The scores of `windows`, in their order. The log-softmax is taken of float32
// logits with its sum in float64. INVALID_ARGUMENT: WINDOW_INVALID,
// TOKEN_OUT_OF_RANGE; DATA_LOSS: NON_FINITE_LOGITS; CANCELLED.
absl::StatusOr<std::vector<WindowScore>> ScoreWindows(
    models::Model& model, const std::vector<Window>& windows,
    const ScoreOptions& options, const base::CancelToken& cancel);

// A continuation to be scored after a context. Neither is empty.
struct Request {
  std::vector<int64_t> context;
  std::vector<int64_t> continuation;
};

struct RequestScore {
  // Of the whole continuation.
  double log_probability = 0;
  bool is_greedy = false;
};

// Scores requests of any lengths together. A request longer than the model's
// context loses tokens at the start of its context (one more than fits may
// stay: the last token is never an input). INVALID_ARGUMENT as above, also
// where a continuation alone is too long.
absl::StatusOr<std::vector<RequestScore>> ScoreRequests(
    models::Model& model, const std::vector<Request>& requests,
    const ScoreOptions& options, const base::CancelToken& cancel);

}  // namespace quantd::evals
