// SPDX-License-Identifier: Apache-2.0
#include "client/render/event_text.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/render/job_words.h"
#include "client/render/quantities.h"
#include "client/render/report.h"

namespace quantd::render {
namespace {

constexpr double kMinute = 60;
constexpr double kHour = 60 * kMinute;

std::string StateWords(const v1::StateChanged& change) {
  std::vector<std::string> words = {StateName(change.to())};
  if (!change.worker_name().empty()) {
    words[0] += absl::StrCat(" on ", change.worker_name());
  }
  if (change.attempt() > 0) {
    words.push_back(absl::StrCat("attempt ", change.attempt()));
  }
  if (!change.pending_reason().empty()) {
    words.push_back(absl::StrCat("waits for ", change.pending_reason()));
  }
  if (change.has_failure()) {
    const v1::Failure& failure = change.failure();
    words.push_back(absl::StrCat(failure.failure_class(), ": ",
                                 failure.message(), " [", failure.reason(),
                                 "]"));
  }
  return Printable(absl::StrJoin(words, ", "));
}

std::string LayersWords(const v1::StepCommitted& step) {
  v1::JobReport report;
  *report.mutable_layers() = step.layers();
  double worst = 0;
  for (const v1::LayerReport& layer : step.layers()) {
    worst = std::max(worst, layer.relative_error());
  }
  return absl::StrCat(": ", VerdictCounts(report), ", largest error ",
                      Number(worst));
}

std::string StepWords(const v1::StepCommitted& step) {
  std::string words = absl::StrCat("step ", step.step() + 1, "/",
                                   step.num_steps(), " ", step.kind());
  if (!step.name().empty() && step.name() != step.kind()) {
    absl::StrAppend(&words, " ", step.name());
  }
  absl::StrAppend(&words, " done in ", Seconds(step.seconds()));
  if (!step.layers().empty()) absl::StrAppend(&words, LayersWords(step));
  for (const v1::EvalReport& eval : step.evals()) {
    for (const v1::Metric& metric : eval.metrics()) {
      absl::StrAppend(&words, "; ", eval.subject(), " ", metric.name(), " ",
                      MetricWords(Terminal(), metric));
    }
  }
  return Printable(words);
}

}  // namespace

std::string RemainingWords(double seconds) {
  if (!(seconds > 0)) return "";
  // An estimate is not given to more digits than it has.
  if (seconds < kMinute) {
    return absl::StrCat("about ", std::max<int64_t>(1, std::llround(seconds)),
                        " s left");
  }
  if (seconds < 2 * kHour) {
    return absl::StrCat("about ", std::llround(seconds / kMinute), " min left");
  }
  return absl::StrCat("about ", std::llround(seconds / kHour), " h left");
}

std::string ProgressLine(const v1::Progress& progress) {
  std::vector<std::string> words = {progress.phase()};
  if (progress.num_blocks() > 0) {
    words.push_back(absl::StrCat(
        "block ", std::min(progress.block() + 1, progress.num_blocks()), "/",
        progress.num_blocks()));
  }
  if (!progress.detail().empty()) words.push_back(progress.detail());
  if (progress.loss() > 0) {
    words.push_back(absl::StrCat("loss ", Number(progress.loss())));
  }
  if (progress.tokens_per_second() > 0) {
    words.push_back(absl::StrCat(
        Count(std::llround(progress.tokens_per_second())), " tokens/s"));
  }
  if (progress.memory_bytes() > 0) {
    words.push_back(Bytes(progress.memory_bytes()));
  }
  const std::string remaining = RemainingWords(progress.remaining_seconds());
  if (!remaining.empty()) words.push_back(remaining);
  return Printable(absl::StrJoin(words, ", "));
}

std::string EventWords(const v1::Event& event) {
  switch (event.kind_case()) {
    case v1::Event::kStateChanged:
      return StateWords(event.state_changed());
    case v1::Event::kStepCommitted:
      return StepWords(event.step_committed());
    case v1::Event::kProgress:
      return ProgressLine(event.progress());
    default:
      return "";
  }
}

}  // namespace quantd::render
