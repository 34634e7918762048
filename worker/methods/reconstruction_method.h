// SPDX-License-Identifier: Apache-2.0
// A method that learns the rounding of all linears of a decoder block together;
// what the variables are is its only choice.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/base/cancel.h"
#include "worker/methods/block_method.h"
#include "worker/methods/method.h"
#include "worker/methods/reconstruct_block.h"
#include "worker/methods/rounding_variables.h"

namespace quantd::methods {

// The variables of `rows`, whose codes are neighbouring integers of `format`.
using MakeIntegerVariables =
    std::function<absl::StatusOr<std::unique_ptr<RoundingVariables>>(
        const RowsToRound& rows, const formats::Format& format)>;

class ReconstructionMethod : public Method, public BlockMethod {
 public:
  // `id` names the method in errors; `min_tokens` as of Method.
  ReconstructionMethod(std::string id, const BlockSchedule& schedule,
                       double min_tokens, MakeIntegerVariables make);

  Needs needs() const override { return Needs::kGram; }
  double min_tokens() const override { return min_tokens_; }
  const BlockMethod* block_method() const override { return this; }

  bool needs_output_weights() const override { return schedule_.weighted; }

  // A layer that stands alone, by the loss of its own output.
  absl::StatusOr<LinearSolution> QuantizeLinear(
      const LinearProblem& problem,
      const base::CancelToken& cancel) const override;
  absl::StatusOr<std::vector<LinearSolution>> QuantizeBlock(
      const BlockProblem& problem,
      const base::CancelToken& cancel) const override;

 private:
  MakeVariables Make() const;

  const std::string id_;
  const BlockSchedule schedule_;
  const double min_tokens_;
  const MakeIntegerVariables make_;
};

}  // namespace quantd::methods
