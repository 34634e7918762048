// SPDX-License-Identifier: Apache-2.0
#include "worker/evals/perplexity_windows.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"

namespace quantd::evals {
namespace {

absl::Status TooShort(size_t tokens, int64_t needed) {
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "EVAL_TEXT_TOO_SHORT",
      absl::StrCat("the text has ", tokens, " tokens and the protocol needs ",
                   needed, "; use more text or a shorter window"));
}

absl::Status InvalidWindow(absl::string_view what) {
  return base::MakeError(absl::StatusCode::kInvalidArgument,
                         "EVAL_WINDOW_INVALID", what);
}

bool Full(const std::vector<Window>& windows, const WindowPlan& plan) {
  return plan.limit > 0 && static_cast<int64_t>(windows.size()) >= plan.limit;
}

// Disjoint windows that score from `first_scored` on.
std::vector<Window> Cut(const std::vector<int64_t>& ids, const WindowPlan& plan,
                        int64_t first_scored) {
  std::vector<Window> windows;
  const auto total = static_cast<int64_t>(ids.size());
  for (int64_t begin = 0; begin + plan.window <= total && !Full(windows, plan);
       begin += plan.window) {
    Window window;
    window.ids.assign(ids.begin() + begin, ids.begin() + begin + plan.window);
    window.first_scored = first_scored;
    if (plan.bos_id >= 0) window.ids.front() = plan.bos_id;
    windows.push_back(std::move(window));
  }
  return windows;
}

}  // namespace

absl::StatusOr<std::vector<Window>> DisjointWindows(
    const std::vector<int64_t>& ids, const WindowPlan& plan) {
  if (plan.window < 2) return InvalidWindow("a window has 2 tokens or more");
  if (static_cast<int64_t>(ids.size()) < plan.window) {
    return TooShort(ids.size(), plan.window);
  }
  return Cut(ids, plan, 1);
}

absl::StatusOr<std::vector<Window>> StridedWindows(
    const std::vector<int64_t>& ids, const WindowPlan& plan) {
  if (plan.window < 2) return InvalidWindow("a window has 2 tokens or more");
  if (plan.stride < 1 || plan.stride > plan.window) {
    return InvalidWindow(absl::StrCat(
        "stride ", plan.stride, " is not between 1 and the window of ",
        plan.window, " tokens: tokens between windows would not be scored"));
  }
  const auto total = static_cast<int64_t>(ids.size());
  if (total < 2) return TooShort(ids.size(), 2);
  std::vector<Window> windows;
  int64_t previous_end = 0;
  for (int64_t begin = 0; previous_end < total && !Full(windows, plan);
       begin += plan.stride) {
    const int64_t end = std::min(begin + plan.window, total);
    Window window;
    window.ids.assign(ids.begin() + begin, ids.begin() + end);
    // Where windows do not overlap, the first token has no context.
    window.first_scored = std::max<int64_t>(1, previous_end - begin);
    previous_end = end;
    if (window.first_scored < end - begin) windows.push_back(std::move(window));
  }
  return windows;
}

absl::StatusOr<std::vector<Window>> SecondHalfWindows(
    const std::vector<int64_t>& ids, const WindowPlan& plan) {
  if (plan.window < 3) return InvalidWindow("a window has 3 tokens or more");
  if (static_cast<int64_t>(ids.size()) < 2 * plan.window) {
    return TooShort(ids.size(), 2 * plan.window);
  }
  return Cut(ids, plan, plan.window / 2 + 1);
}

LossSummary Summarize(const std::vector<WindowScore>& scores) {
  LossSummary summary;
  std::vector<double> means;
  for (const WindowScore& score : scores) {
    double sum = 0;
    for (const double loss : score.losses) sum += loss;
    summary.sum += sum;
    summary.tokens += static_cast<int64_t>(score.losses.size());
    means.push_back(sum / static_cast<double>(score.losses.size()));
  }
  if (summary.tokens == 0) return summary;
  summary.mean = summary.sum / static_cast<double>(summary.tokens);
  // Second passes over deviations: the difference of two large sums would lose
  // the digits that matter.
  double squares = 0;
  for (const WindowScore& score : scores) {
    for (const double loss : score.losses) {
      squares += (loss - summary.mean) * (loss - summary.mean);
    }
  }
  const auto tokens = static_cast<double>(summary.tokens);
  if (tokens > 1) {
    summary.token_error = std::sqrt(squares / tokens / (tokens - 1));
  }
  const auto windows = static_cast<double>(means.size());
  for (const double mean : means) summary.window_mean += mean / windows;
  double spread = 0;
  for (const double mean : means) {
    spread += (mean - summary.window_mean) * (mean - summary.window_mean);
  }
  if (windows > 1) {
    summary.window_error = std::sqrt(spread / (windows - 1) / windows);
  }
  return summary;
}

}  // namespace quantd::evals
