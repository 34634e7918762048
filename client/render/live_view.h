// SPDX-License-Identifier: Apache-2.0
// What `watch` shows on a terminal: a few lines that describe the job now.
// Pure: events in, lines out; LiveBlock puts them on the screen.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/render/terminal.h"
#include "quantd/v1/event.pb.h"
#include "quantd/v1/job.pb.h"

namespace quantd::render {

// One thread at a time.
class LiveView {
 public:
  explicit LiveView(const v1::Job& job) : job_(job) {}

  // Takes the event in. Returns the line that is worth keeping above the live
  // ones, empty for most events.
  std::string Apply(const v1::Event& event, absl::Time now);
  void SetConnectionTrouble(const std::string& words) { trouble_ = words; }

  // Headline, phases, bar, detail; each at most terminal.width() columns.
  std::vector<std::string> Lines(const Terminal& terminal,
                                 absl::Time now) const;

 private:
  std::string Headline(const Terminal& terminal, absl::Time now) const;
  std::string Phases(const Terminal& terminal) const;
  std::string Bar(const Terminal& terminal, int width, absl::Time now) const;
  std::string Detail() const;

  v1::Job job_;
  absl::Time progress_time_;
  std::string trouble_;
};

// `fraction` of `width` columns filled.
std::string ProgressBar(const Terminal& terminal, double fraction, int width);

}  // namespace quantd::render
