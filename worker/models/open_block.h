// SPDX-License-Identifier: Apache-2.0
// A decoder block as a function that autograd goes through: to weights that are
// handed in, and to the block's input.
#pragma once

#include <ATen/core/Tensor.h>

#include <set>
#include <string>
#include <vector>

#include "worker/models/model.h"

namespace quantd::models {

class OpenLinear;

// While it lives, all linears of the block are open; then those that kept their
// weights are what they were. One thread.
class OpenBlock {
 public:
  // `given`: names of the linears whose weights are handed in; the others keep
  // their own. `block` outlives this.
  OpenBlock(Block& block, const std::set<std::string>& given);
  ~OpenBlock();
  OpenBlock(const OpenBlock&) = delete;
  OpenBlock& operator=(const OpenBlock&) = delete;

  // The names, in forward order.
  const std::vector<std::string>& given() const { return given_; }
  // `weights` in the same order.
  at::Tensor Forward(const at::Tensor& input,
                     const std::vector<at::Tensor>& weights) const;

 private:
  Block& block_;
  std::vector<std::string> given_;
  // Owned by the block.
  std::vector<OpenLinear*> open_;
  std::vector<std::string> kept_;
};

}  // namespace quantd::models
