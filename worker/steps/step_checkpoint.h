// SPDX-License-Identifier: Apache-2.0
// What is kept of a step under way, so that the death of a runner costs little
// of it. docs/journal.md says what it holds.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "proto/base/clock.h"
#include "worker/methods/loop_store.h"

namespace quantd::steps {

// The state lies in a directory of this machine that outlives the attempt, in
// one file whose name says what it belongs to and has its digest. Where the
// file is gone or damaged the step begins again, with the same result.
//
// One thread; the clock outlives it.
class StepCheckpoint : public methods::LoopStore {
 public:
  // Keeps nothing where `directory` is empty. `interval`: what may be lost.
  StepCheckpoint(std::string directory, absl::Duration interval,
                 base::Clock& clock);

  // From here on the state is that of `step`, a file name's worth of everything
  // that its bytes depend on. What was kept of other steps goes.
  void Begin(const std::string& step);
  // The step is committed: nothing of it is needed any more.
  void End();

  methods::LoopState Load() override;
  bool IsDue() override;
  void Keep(const methods::LoopState& state) override;

 private:
  void RemoveAllBut(const std::string& kept);

  const std::string directory_;
  const absl::Duration interval_;
  base::Clock& clock_;
  std::string step_;
  absl::Duration last_;
};

}  // namespace quantd::steps
