// SPDX-License-Identifier: Apache-2.0
// Which tokens of a text each perplexity protocol scores, and after what
// context (docs/evals/perplexity.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/evals/scorer.h"

namespace quantd::evals {

struct WindowPlan {
  // Tokens of a window.
  int64_t window = 0;
  // Tokens from one window's start to the next one's.
  int64_t stride = 0;
  // The first so many windows; 0 means all.
  int64_t limit = 0;
  // Takes the place of each window's first token where it is not negative.
  int64_t bos_id = -1;
};

// Disjoint windows; all tokens of a window but its first are scored; the tail
// is dropped (IST-DASLab/gptq, llama.py, llama_eval).
absl::StatusOr<std::vector<Window>> DisjointWindows(
    const std::vector<int64_t>& ids, const WindowPlan& plan);

// Overlapping windows; each token is scored once, by the first window that
// holds it (the "perplexity of fixed-length models" page of the transformers
// documentation).
absl::StatusOr<std::vector<Window>> StridedWindows(
    const std::vector<int64_t>& ids, const WindowPlan& plan);

// Disjoint windows; the second half of each is scored (llama.cpp,
// tools/perplexity).
absl::StatusOr<std::vector<Window>> SecondHalfWindows(
    const std::vector<int64_t>& ids, const WindowPlan& plan);

// Means and errors over the losses of windows, in nats.
struct LossSummary {
  int64_t tokens = 0;
  double sum = 0;
  double mean = 0;
  // sqrt((E[x^2] - E[x]^2) / (n - 1)) over tokens, as llama.cpp prints: takes
  // tokens as independent, which understates it. 0 for one token.
  double token_error = 0;
  // Mean of the windows' means, and its error: their standard deviation (n - 1)
  // over sqrt(n). 0 for one window.
  double window_mean = 0;
  double window_error = 0;
};

LossSummary Summarize(const std::vector<WindowScore>& scores);

}  // namespace quantd::evals
