// SPDX-License-Identifier: Apache-2.0
// How a running job is shown: redrawn in place on a terminal, a line per event
// in a pipe, an object per event for machines, or not at all.
#pragma once

#include <memory>
#include <ostream>
#include <string>

#include "client/render/terminal.h"
#include "proto/base/clock.h"
#include "quantd/v1/event.pb.h"
#include "quantd/v1/job.pb.h"

namespace quantd::render {

// Thread-safe.
class WatchDisplay {
 public:
  virtual ~WatchDisplay() = default;
  virtual void OnEvent(const v1::Event& event) = 0;
  // The connection broke and is being taken up again.
  virtual void OnTrouble(const std::string& words) = 0;
  // Leaves the terminal as it was; nothing is shown after it.
  virtual void Close() = 0;
};

// `out` outlives the display; so does `clock`.
std::unique_ptr<WatchDisplay> MakeLiveDisplay(const v1::Job& job,
                                              const Terminal& terminal,
                                              base::Clock& clock,
                                              std::ostream& out);
// Progress is printed when the phase changes and at most every 10 seconds.
std::unique_ptr<WatchDisplay> MakePlainDisplay(std::ostream& out,
                                               std::ostream& err);
std::unique_ptr<WatchDisplay> MakeJsonLinesDisplay(std::ostream& out,
                                                   std::ostream& err);
// Only trouble is told.
std::unique_ptr<WatchDisplay> MakeQuietDisplay(std::ostream& err);

}  // namespace quantd::render
