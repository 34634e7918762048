// SPDX-License-Identifier: Apache-2.0
// Keeps the state at every step, as a process that dies would leave it, and
// hands out one of them.
#pragma once

#include <vector>

#include "worker/methods/loop_store.h"

namespace quantd::methods {

class EveryState : public LoopStore {
 public:
  LoopState Load() override { return given_; }
  bool IsDue() override { return true; }
  void Keep(const LoopState& state) override {
    LoopState copy;
    for (const auto& [name, tensor] : state) copy[name] = tensor.clone();
    kept_.push_back(copy);
  }

  LoopState given_;
  std::vector<LoopState> kept_;
};

}  // namespace quantd::methods
