// SPDX-License-Identifier: Apache-2.0
// The seam of methods that round all linears of a decoder block together, to
// keep the block's output. They see the block as a function of its weights.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/base/cancel.h"
#include "worker/formats/format.h"
#include "worker/methods/loop_store.h"
#include "worker/methods/method.h"

namespace quantd::methods {

struct BlockLinear {
  // For messages.
  std::string name;
  // float32 [out, in].
  at::Tensor weight;
  formats::WeightSpec spec;
};

// Everything is on one device.
struct BlockProblem {
  std::vector<BlockLinear> linears;
  int64_t sequences = 0;
  // Of sequence i, float32 [tokens, hidden]: what the block reads behind the
  // blocks that are quantized, and what the float block makes of it.
  std::function<at::Tensor(int64_t i)> input;
  std::function<at::Tensor(int64_t i)> target;
  // Of sequence i, float32 [tokens, hidden], 1 at least: how often the squared
  // error of an element of the output counts. Empty: all once. Only where the
  // method asked for it.
  std::function<at::Tensor(int64_t i)> output_weights = {};
  // The block's output with other weights, one per linear and in their order;
  // autograd goes through it to the weights.
  std::function<at::Tensor(const at::Tensor& input,
                           const std::vector<at::Tensor>& weights)>
      forward;
  // May be empty. Told the loss of every batch and, as the last step, that of
  // the result on all sequences.
  LossObserver observe = {};
  // Null where nothing is kept.
  LoopStore* store = nullptr;
};

// Implemented beside Method by the same class.
class BlockMethod {
 public:
  virtual ~BlockMethod() = default;
  // Whether errors of the output are to count by what they do to the loss of
  // the float model. That takes a pass back through all of it, before any block
  // is quantized.
  virtual bool needs_output_weights() const { return false; }
  // One solution per linear; the loss curve, which they share, is the first's.
  // Polls `cancel` between sequences. Errors as of Method::QuantizeLinear.
  virtual absl::StatusOr<std::vector<LinearSolution>> QuantizeBlock(
      const BlockProblem& problem, const base::CancelToken& cancel) const = 0;
};

}  // namespace quantd::methods
