// SPDX-License-Identifier: Apache-2.0
// The forward pass of a sparse feed-forward layer on one sequence, in two
// halves with the experts' intermediate values between them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "worker/models/shape.h"

namespace quantd::models {

// Which rows of a sequence each expert sees.
struct Routing {
  // int64 [tokens * chosen]: the token of every row, the rows of one expert
  // after those of the one before and in order of their tokens.
  at::Tensor token;
  // float32 [tokens * chosen]: what a row's output counts.
  at::Tensor weight;
  // Rows per expert; none is possible.
  std::vector<int64_t> rows;
};

// `x` float32 [tokens, hidden], `router` [experts, hidden]. The same input
// gives the same routing.
Routing Route(const at::Tensor& x, const at::Tensor& router,
              const Mixture& mixture);

// Immutable. Everywhere `x` is what the layer reads, float32 [tokens, hidden],
// and `packed` float32 [tokens, width()] what GateUp made of it: the rows of
// the experts one after another, then the shared expert's.
class SparseLayer {
 public:
  // Applies the linear at that place of the stage at hand.
  using Apply = std::function<at::Tensor(size_t place, const at::Tensor& rows)>;

  // `shared_gate` [1, hidden] is undefined where no expert is shared.
  SparseLayer(const Shape& shape, at::Tensor router, at::Tensor shared_gate);

  // Inputs by expert, the shared one last.
  std::vector<at::Tensor> GateUpInputs(const at::Tensor& x) const;
  std::vector<at::Tensor> DownInputs(const at::Tensor& x,
                                     const at::Tensor& packed) const;

  at::Tensor GateUp(const at::Tensor& x, const Apply& linear) const;
  // float32 [tokens, hidden].
  at::Tensor Down(const at::Tensor& x, const at::Tensor& packed,
                  const Apply& linear) const;

 private:
  // Views of `packed` by expert, the shared one last.
  std::vector<at::Tensor> Split(const at::Tensor& packed,
                                const std::vector<int64_t>& rows) const;

  const Mixture mixture_;
  const Activation activation_;
  const at::Tensor router_;
  const at::Tensor shared_gate_;
};

}  // namespace quantd::models
