// SPDX-License-Identifier: Apache-2.0
#include "worker/evals/scorer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/kernels/operators.h"

namespace quantd::evals {
namespace {

absl::Status InvalidWindow(size_t index, absl::string_view what) {
  return base::MakeError(absl::StatusCode::kInvalidArgument, "WINDOW_INVALID",
                         absl::StrCat("window ", index, ": ", what));
}

absl::Status CheckWindows(const models::Model& model,
                          const std::vector<Window>& windows) {
  for (size_t i = 0; i < windows.size(); ++i) {
    const Window& window = windows[i];
    const auto size = static_cast<int64_t>(window.ids.size());
    if (window.first_scored < 1 || window.first_scored >= size) {
      return InvalidWindow(
          i, absl::StrCat("of ", size, " tokens those from ",
                          window.first_scored, " on are to be scored"));
    }
    for (const int64_t id : window.ids) {
      if (id >= 0 && id < model.vocabulary_size()) continue;
      return base::MakeError(
          absl::StatusCode::kInvalidArgument, "TOKEN_OUT_OF_RANGE",
          absl::StrCat("token id ", id, " is not below the model's ",
                       model.vocabulary_size(),
                       "; is this the model's tokenizer?"));
    }
  }
  return absl::OkStatus();
}

// One call of ScoreWindows.
class Scorer {
 public:
  Scorer(models::Model& model, const std::vector<Window>& windows,
         const ScoreOptions& options, const base::CancelToken& cancel)
      : model_(model),
        windows_(windows),
        options_(options),
        cancel_(cancel),
        scores_(windows.size()) {}

  absl::StatusOr<std::vector<WindowScore>> Run() {
    for (size_t begin = 0; begin < windows_.size();) {
      const size_t end = GroupEnd(begin);
      RETURN_IF_ERROR(RunGroup(begin, end));
      begin = end;
    }
    return std::move(scores_);
  }

 private:
  // The first window after `begin` that does not go with it.
  size_t GroupEnd(size_t begin) const {
    const int64_t token_bytes =
        model_.hidden_size() * static_cast<int64_t>(sizeof(float));
    const size_t length = windows_[begin].ids.size();
    int64_t bytes = 0;
    size_t end = begin;
    for (; end < windows_.size(); ++end) {
      const size_t size = windows_[end].ids.size();
      bytes += static_cast<int64_t>(size) * token_bytes;
      if (end == begin) continue;
      if (bytes > options_.activation_bytes) break;
      if (options_.group_by_length && size != length) break;
    }
    return end;
  }

  absl::Status RunGroup(size_t begin, size_t end) {
    std::vector<models::SequenceState> states(end - begin);
    int64_t longest = 0;
    for (size_t i = begin; i < end; ++i) {
      RETURN_IF_ERROR(cancel_.Check());
      const std::vector<int64_t>& ids = windows_[i].ids;
      longest = std::max(longest, static_cast<int64_t>(ids.size()));
      // Nothing is predicted from the last token, so it is no input.
      const auto inputs = static_cast<int64_t>(ids.size()) - 1;
      at::Tensor tokens = at::empty({inputs}, at::TensorOptions(at::kLong));
      std::copy_n(ids.begin(), inputs, tokens.data_ptr<int64_t>());
      ASSIGN_OR_RETURN(states[i - begin].residual, model_.Embed(tokens));
    }
    longest = std::min(longest, model_.context_length());
    for (int64_t block = 0; block < model_.num_blocks(); ++block) {
      RETURN_IF_ERROR(RunBlock(block, longest, &states));
      // The head counts as one more block.
      Report(begin + (end - begin) * (block + 1) / (model_.num_blocks() + 1));
    }
    RETURN_IF_ERROR(RunHead(begin, &states));
    Report(end);
    return absl::OkStatus();
  }

  absl::Status RunBlock(int64_t index, int64_t longest,
                        std::vector<models::SequenceState>* states) {
    ASSIGN_OR_RETURN(const std::unique_ptr<models::Block> block,
                     model_.LoadBlock(index, longest));
    for (models::SequenceState& state : *states) {
      RETURN_IF_ERROR(cancel_.Check());
      block->Forward(&state);
    }
    return absl::OkStatus();
  }

  absl::Status RunHead(size_t begin,
                       std::vector<models::SequenceState>* states) {
    ASSIGN_OR_RETURN(const std::unique_ptr<models::Linear> head,
                     model_.LoadHead());
    for (size_t i = 0; i < states->size(); ++i) {
      RETURN_IF_ERROR(cancel_.Check());
      const Window& window = windows_[begin + i];
      const auto size = static_cast<int64_t>(window.ids.size());
      // The logits of a position predict the token after it.
      const at::Tensor rows =
          (*states)[i].residual.slice(0, window.first_scored - 1, size - 1);
      ASSIGN_OR_RETURN(const at::Tensor hidden, model_.FinalNorm(rows));
      RETURN_IF_ERROR(ScoreRows(*head, hidden, window, &scores_[begin + i]));
      (*states)[i] = {};
    }
    return absl::OkStatus();
  }

  absl::Status ScoreRows(const models::Linear& head, const at::Tensor& hidden,
                         const Window& window, WindowScore* score) {
    const int64_t row_bytes =
        head.out_features() * static_cast<int64_t>(sizeof(float));
    const int64_t chunk =
        std::max<int64_t>(1, options_.logit_bytes / row_bytes);
    const int64_t rows = hidden.size(0);
    score->losses.reserve(rows);
    for (int64_t begin = 0; begin < rows; begin += chunk) {
      const int64_t end = std::min(rows, begin + chunk);
      const at::Tensor logits =
          head.Apply(hidden.slice(0, begin, end)).to(at::kFloat);
      const int64_t* targets = window.ids.data() + window.first_scored + begin;
      RETURN_IF_ERROR(ScoreLogits(logits, targets, score));
    }
    return absl::OkStatus();
  }

  // `logits` float32 [rows, vocabulary]; one target for each row.
  absl::Status ScoreLogits(const at::Tensor& logits, const int64_t* targets,
                           WindowScore* score) {
    const int64_t rows = logits.size(0);
    at::Tensor target = at::empty({rows}, at::TensorOptions(at::kLong));
    std::copy_n(targets, rows, target.data_ptr<int64_t>());
    const kernels::TokenLosses result =
        kernels::LossesOfTokens(logits, target.to(logits.device()));
    const at::Tensor loss = result.losses.cpu();
    const at::Tensor best = result.best.cpu();
    if (!at::isfinite(loss).all().item<bool>()) return NonFinite();
    const double* losses = loss.data_ptr<double>();
    const int64_t* greedy = best.data_ptr<int64_t>();
    for (int64_t row = 0; row < rows; ++row) {
      score->losses.push_back(losses[row]);
      score->is_greedy = score->is_greedy && greedy[row] == targets[row];
    }
    return absl::OkStatus();
  }

  static absl::Status NonFinite() {
    return base::MakeError(absl::StatusCode::kDataLoss, "NON_FINITE_LOGITS",
                           "the model's logits are not finite");
  }

  void Report(size_t done) const {
    if (options_.progress) {
      options_.progress(static_cast<int64_t>(done),
                        static_cast<int64_t>(windows_.size()));
    }
  }

  models::Model& model_;
  const std::vector<Window>& windows_;
  const ScoreOptions& options_;
  const base::CancelToken& cancel_;
  std::vector<WindowScore> scores_;
};

// The end of context + continuation that the model can take: its last token is
// only predicted.
absl::StatusOr<Window> WindowOf(const models::Model& model,
                                const Request& request, size_t index) {
  const auto scored = static_cast<int64_t>(request.continuation.size());
  const auto total = static_cast<int64_t>(request.context.size()) + scored;
  if (scored == 0 || request.context.empty()) {
    return InvalidWindow(index, "the context or the continuation is empty");
  }
  if (scored > model.context_length()) {
    return InvalidWindow(index,
                         absl::StrCat("the continuation has ", scored,
                                      " tokens and the model's context is ",
                                      model.context_length()));
  }
  Window window;
  const int64_t cut =
      std::max<int64_t>(0, total - (model.context_length() + 1));
  window.ids.assign(request.context.begin() + cut, request.context.end());
  window.ids.insert(window.ids.end(), request.continuation.begin(),
                    request.continuation.end());
  window.first_scored = static_cast<int64_t>(window.ids.size()) - scored;
  return window;
}

}  // namespace

absl::StatusOr<std::vector<WindowScore>> ScoreWindows(
    models::Model& model, const std::vector<Window>& windows,
    const ScoreOptions& options, const base::CancelToken& cancel) {
  RETURN_IF_ERROR(CheckWindows(model, windows));
  return Scorer(model, windows, options, cancel).Run();
}

absl::StatusOr<std::vector<RequestScore>> ScoreRequests(
    models::Model& model, const std::vector<Request>& requests,
    const ScoreOptions& options, const base::CancelToken& cancel) {
  std::vector<Window> windows;
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSIGN_OR_RETURN(Window window, WindowOf(model, requests[i], i));
    windows.push_back(std::move(window));
  }
  ScoreOptions together = options;
  together.group_by_length = false;
  ASSIGN_OR_RETURN(const std::vector<WindowScore> scores,
                   ScoreWindows(model, windows, together, cancel));
  std::vector<RequestScore> results;
  for (const WindowScore& score : scores) {
    const double loss =
        std::accumulate(score.losses.begin(), score.losses.end(), 0.0);
    results.push_back({-loss, score.is_greedy});
  }
  return results;
}

}  // namespace quantd::evals
