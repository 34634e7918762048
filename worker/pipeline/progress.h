// SPDX-License-Identifier: Apache-2.0
// What a running job says of itself while it works, and how long it will take.
#pragma once

#include <cstdint>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "proto/base/clock.h"
#include "worker/pipeline/journal.h"
#include "worker/pipeline/pipeline.h"

namespace quantd::pipeline {

// Peak resident memory of this process.
int64_t PeakMemoryBytes();

// Seconds to the end of the job: measured steps of a kind stand for those of
// the same kind that are left. Kinds that were not measured yet count with a
// usual share of the time that all blocks take, so that the figure does not
// jump when the blocks are done. 0 while nothing was measured.
double RemainingSeconds(const Journal& journal, double seconds_in_step);

// One thread, the one that made it; Report and ReportLoss of any other are
// dropped, as progress may be. The references outlive it.
class ProgressReporter {
 public:
  ProgressReporter(Sink& sink, const Journal& journal, int64_t num_blocks,
                   base::Clock& clock);

  // Begins the journal's next step.
  void BeginStep(const std::string& phase);
  // Seconds since BeginStep.
  double StepSeconds() const;
  void SetBlock(int64_t block) { progress_.set_block(block); }
  void SetLoss(double loss) { progress_.set_loss(loss); }
  // Counts `tokens` that went through a stage and reports, at most ten times a
  // second.
  void AddTokens(int64_t tokens);
  // Reports at once.
  void Report(const std::string& detail);
  // One step of `steps` of an optimisation that Report named, and its loss; at
  // most ten times a second, but always the first and the last.
  void ReportLoss(int64_t step, int64_t steps, double loss);

 private:
  void Send();

  bool OnOwnThread() const { return std::this_thread::get_id() == thread_; }

  Sink& sink_;
  const Journal& journal_;
  base::Clock& clock_;
  const std::thread::id thread_ = std::this_thread::get_id();
  v1::Progress progress_;
  std::string detail_;
  absl::Duration step_began_;
  absl::Duration last_sent_;
  int64_t tokens_ = 0;
};

}  // namespace quantd::pipeline
