// SPDX-License-Identifier: Apache-2.0
// SignRound's variables: an offset of every weight before it is rounded, and
// how far the ends of its group's range are drawn in, all moved by the sign of
// their gradient (Cheng et al., Optimize Weight Rounding via Signed Gradient
// Descent for the Quantization of LLMs, arXiv:2309.05516, section 3).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "absl/status/status.h"
#include "worker/kernels/learned_rounding_cpu.h"
#include "worker/methods/column_groups.h"
#include "worker/methods/rounding_variables.h"

namespace quantd::methods {

struct SignedRoundingOptions {
  int64_t iterations = 200;
  // First step sizes; they fall to 0 along a straight line.
  double learning_rate = 0;
  // 0: the grids of plain rounding stay.
  double minmax_learning_rate = 0;
};

// Before the first step it stands for plain rounding.
class SignedRounding : public RoundingVariables {
 public:
  // `format` outlives it.
  SignedRounding(const RowsToRound& rows, const formats::Format& format,
                 const SignedRoundingOptions& options);

  absl::StatusOr<at::Tensor> Weight() override;
  // Rows whose loss is the least so far keep their variables as their best.
  void Judge(const at::Tensor& losses) override;
  void Step(const at::Tensor& gradient, int64_t step) override;
  std::vector<std::pair<std::string, at::Tensor*>> State() override;
  // Of the best variables.
  absl::StatusOr<formats::QuantizedLinear> Finish() override;

  struct Variables {
    // What is added to weights in units of their scale before they are rounded,
    // [rows, in].
    at::Tensor offset;
    // What the ends of the range are multiplied with, [rows, groups], 0 .. 1.
    at::Tensor low;
    at::Tensor high;
  };
  const Variables& variables() const { return now_; }
  // The gradients by the variables, rounding taken for the identity. Step uses
  // it but for float32 on the CPU, where one pass does it all.
  Variables Gradients(const at::Tensor& gradient) const;

 private:
  struct Grids {
    at::Tensor scales;  // [rows, groups]
    at::Tensor zeros;
  };
  // By the format's own rule, from ranges that are drawn in.
  absl::StatusOr<Grids> ChooseGrids(const Variables& variables) const;
  // All weights on their grids, [rows, in].
  struct Placed {
    at::Tensor scale;
    at::Tensor units;   // weight / scale
    at::Tensor level;   // code - zero
    at::Tensor inside;  // 1 where the code was not cut to the grid, else 0.
  };
  Placed Place() const;
  // What is summed over a group, [rows, groups]: the gradient by the scale,
  // and the gradients of weights that were cut.
  struct Sums {
    at::Tensor by_scale;
    at::Tensor cut;
  };
  Sums SumUp(const Placed& placed, const at::Tensor& gradient) const;
  // Sets `by` of the ends of ranges.
  void AddRanges(const Sums& sums, Variables* by) const;
  // Moves the offsets by `size`, in one pass.
  Sums MoveOffsets(const at::Tensor& gradient, double size);
  kernels::GroupedRows Grouped() const;

  const SignedRoundingOptions options_;
  const formats::Format& format_;
  const formats::WeightSpec spec_;
  const ColumnGroups groups_;
  const at::Tensor weight_;
  // float32 on the CPU.
  const bool fused_;
  formats::QuantizedLinear linear_;
  // [rows, groups]: the range of the weights, with 0.
  at::Tensor min_;
  at::Tensor max_;
  Variables now_;
  Variables best_;
  at::Tensor best_loss_;
  // Of the newest Weight().
  Grids grids_;
};

}  // namespace quantd::methods
