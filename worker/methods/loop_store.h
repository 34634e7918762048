// SPDX-License-Identifier: Apache-2.0
// Where an optimisation keeps its state, so that the death of the process costs
// little of it.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

namespace quantd::methods {

// Tensors that an optimisation goes on from, by name.
using LoopState = std::map<std::string, at::Tensor>;

// A later process that is given the same problem goes on from what was kept.
// One thread.
class LoopStore {
 public:
  virtual ~LoopStore() = default;
  // What was kept last, on the CPU; empty where there is nothing to go on from.
  virtual LoopState Load() = 0;
  // Whether so much would be lost by now that it is worth keeping.
  virtual bool IsDue() = 0;
  // Returns when the state is written; one that cannot be kept is no error.
  virtual void Keep(const LoopState& state) = 0;
};

// True where `kept` has every tensor of `wanted`, of the same shape and type;
// else it is the state of some other problem.
bool Fits(const LoopState& kept, const LoopState& wanted);

}  // namespace quantd::methods
