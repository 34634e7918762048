// SPDX-License-Identifier: Apache-2.0
#include "client/render/live_view.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/render/event_text.h"
#include "client/render/job_words.h"
#include "client/render/quantities.h"

namespace quantd::render {
namespace {

constexpr int kLongestBar = 40;
constexpr int kShortestBar = 8;

bool HasVerdictToShow(const v1::StepCommitted& step) {
  return std::any_of(step.layers().begin(), step.layers().end(),
                     [](const v1::LayerReport& layer) {
                       return layer.verdict() != v1::VERDICT_OK;
                     });
}

std::vector<std::string> PhasesOf(const v1::JobSpec& spec) {
  if (spec.has_evaluate()) return {"load", "evaluate"};
  std::vector<std::string> phases = {"load", "quantize", "export", "verify"};
  if (!spec.quantize().recipe().evals().empty()) phases.push_back("evaluate");
  return phases;
}

double Fraction(const v1::Progress& progress) {
  const bool blocks = progress.phase() == "quantize";
  const int64_t done = blocks ? progress.block() : progress.step();
  const int64_t all = blocks ? progress.num_blocks() : progress.num_steps();
  if (all <= 0) return 0;
  return std::clamp(static_cast<double>(done) / static_cast<double>(all), 0.0,
                    1.0);
}

std::string PositionWords(const v1::Progress& progress) {
  if (progress.phase() == "quantize" && progress.num_blocks() > 0) {
    return absl::StrCat("block ",
                        std::min(progress.block() + 1, progress.num_blocks()),
                        "/", progress.num_blocks());
  }
  if (progress.num_steps() == 0) return "";
  return absl::StrCat("step ",
                      std::min(progress.step() + 1, progress.num_steps()), "/",
                      progress.num_steps());
}

}  // namespace

std::string ProgressBar(const Terminal& terminal, double fraction, int width) {
  const int filled = static_cast<int>(std::lround(fraction * width));
  std::string done;
  std::string rest;
  for (int i = 0; i < width; ++i) {
    if (terminal.unicode) {
      absl::StrAppend(i < filled ? &done : &rest, "\u2501");
    } else {
      absl::StrAppend(i < filled ? &done : &rest, i < filled ? "#" : "-");
    }
  }
  if (terminal.unicode && !terminal.color) {
    rest.clear();
    for (int i = filled; i < width; ++i) absl::StrAppend(&rest, "\u2508");
  }
  return absl::StrCat(terminal.unicode ? "" : "[",
                      done.empty() ? "" : Paint(terminal, Color::kGreen, done),
                      rest.empty() ? "" : Paint(terminal, Color::kDim, rest),
                      terminal.unicode ? "" : "]");
}

std::string LiveView::Apply(const v1::Event& event, absl::Time now) {
  trouble_.clear();
  if (event.has_progress()) {
    *job_.mutable_progress() = event.progress();
    progress_time_ = now;
    return "";
  }
  if (event.has_step_committed()) {
    const v1::StepCommitted& step = event.step_committed();
    job_.set_committed_steps(step.step() + 1);
    const bool keep = HasVerdictToShow(step) || !step.evals().empty();
    return keep ? EventWords(event) : "";
  }
  if (!event.has_state_changed()) return "";
  const v1::StateChanged& change = event.state_changed();
  job_.set_state(change.to());
  job_.set_pending_reason(change.pending_reason());
  if (change.attempt() > 0) job_.set_attempt(change.attempt());
  job_.set_worker_name(change.worker_name());
  if (change.to() != v1::JOB_STATE_RUNNING) job_.clear_progress();
  const bool expected = change.to() == v1::JOB_STATE_QUEUED ||
                        change.to() == v1::JOB_STATE_LEASED ||
                        change.to() == v1::JOB_STATE_RUNNING ||
                        change.to() == v1::JOB_STATE_SUCCEEDED;
  return change.has_failure() || !expected ? EventWords(event) : "";
}

std::string LiveView::Headline(const Terminal& terminal, absl::Time now) const {
  std::string place;
  if (!job_.worker_name().empty()) {
    place = absl::StrCat(" on ", Printable(job_.worker_name()));
  }
  if (job_.attempt() > 1) {
    absl::StrAppend(&place, ", attempt ", job_.attempt());
  }
  return absl::StrCat(
      Paint(terminal, Color::kBold, Printable(job_.display_name())), "  job ",
      ShortId(job_.job_id()), place, ", ", Age(job_.create_time(), now));
}

std::string LiveView::Phases(const Terminal& terminal) const {
  if (job_.state() != v1::JOB_STATE_RUNNING) {
    std::string words = StateName(job_.state());
    if (!job_.pending_reason().empty()) {
      absl::StrAppend(&words, ", ", Printable(job_.pending_reason()));
    }
    return Paint(terminal, StateColor(job_.state()), words);
  }
  const std::vector<std::string> phases = PhasesOf(job_.spec());
  const auto current =
      std::find(phases.begin(), phases.end(), job_.progress().phase());
  std::vector<std::string> words;
  for (auto phase = phases.begin(); phase != phases.end(); ++phase) {
    if (phase == current) {
      words.push_back(terminal.color ? Paint(terminal, Color::kCyan, *phase)
                                     : absl::StrCat("[", *phase, "]"));
    } else {
      const bool done = current != phases.end() && phase < current;
      words.push_back(
          Paint(terminal, done ? Color::kGreen : Color::kDim, *phase));
    }
  }
  return absl::StrJoin(words, " > ");
}

std::string LiveView::Bar(const Terminal& terminal, int width,
                          absl::Time now) const {
  const v1::Progress& progress = job_.progress();
  const double fraction = Fraction(progress);
  // The estimate is as old as the message it came in.
  const double left = progress.remaining_seconds() -
                      absl::ToDoubleSeconds(
                          std::max(absl::ZeroDuration(), now - progress_time_));
  std::string remaining = "time left not known yet";
  if (progress.remaining_seconds() > 0) {
    remaining = left > 0 ? RemainingWords(left) : "longer than estimated";
  }
  const std::string words =
      absl::StrFormat(" %s  %d%%  %s", PositionWords(progress),
                      static_cast<int>(std::floor(100 * fraction)), remaining);
  const int room = width - DisplayWidth(words) - 2;
  if (room < kShortestBar) return words.substr(1);
  return ProgressBar(terminal, fraction, std::min(room, kLongestBar)) + words;
}

std::string LiveView::Detail() const {
  const v1::Progress& progress = job_.progress();
  std::vector<std::string> words;
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
  return Printable(absl::StrJoin(words, "  "));
}

std::vector<std::string> LiveView::Lines(const Terminal& terminal,
                                         absl::Time now) const {
  // The last column stays free: writing into it makes some terminals wrap.
  const int width = std::max(1, terminal.width() - 1);
  std::vector<std::string> lines = {Headline(terminal, now), Phases(terminal)};
  if (job_.state() == v1::JOB_STATE_RUNNING && job_.has_progress()) {
    lines.push_back(Bar(terminal, width, now));
    lines.push_back(Detail());
  }
  if (!trouble_.empty()) {
    lines.push_back(Paint(terminal, Color::kYellow, trouble_));
  }
  for (std::string& line : lines) line = Truncate(line, width);
  return lines;
}

}  // namespace quantd::render
