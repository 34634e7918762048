// SPDX-License-Identifier: Apache-2.0
// AdaRound's variables: every weight lies between its two neighbours on a fixed
// grid, and a penalty drives it to one of them (Nagel et al., Up or Down?
// Adaptive Rounding for Post-Training Quantization, arXiv:2004.10568, section
// 4).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "proto/spec/params.h"
#include "quantd/v1/catalog.pb.h"
#include "quantd/v1/recipe.pb.h"
#include "worker/kernels/learned_rounding_cpu.h"
#include "worker/methods/column_groups.h"
#include "worker/methods/rounding_variables.h"

namespace quantd::methods {

struct SoftRoundingOptions {
  int64_t iterations = 500;
  // Of Adam.
  double learning_rate = 0.01;
  // Weight of the penalty, in units of plain rounding's loss per weight.
  double lambda = 30;
  // Part of the iterations without penalty.
  double warmup = 0.2;
  // The penalty's exponent goes from `beta_start` to `beta_end`, along half a
  // cosine or a straight line.
  double beta_start = 20;
  double beta_end = 2;
  bool cosine = true;
};

// Declares the options as parameters, and reads them.
void AddSoftRoundingParameters(const SoftRoundingOptions& defaults,
                               v1::ComponentEntry* entry);
SoftRoundingOptions ReadSoftRounding(const spec::Params& params, bool cosine);
// Published with grids of the least squared error, which stay as they are.
void PresetOfSoftRounding(v1::Recipe* preset);

// The loss is taken relative to plain rounding's and counts once per weight:
//   weights_in_loss * loss + lambda * sum (1 - |2 h - 1|^beta)
// so that lambda means the same for every layer and every scale of its input.
class SoftRounding : public RoundingVariables {
 public:
  // The grid is that of rows.rounded, with codes 0 .. max_code. Computes in the
  // type of rows.weight.
  SoftRounding(const RowsToRound& rows, int max_code,
               const SoftRoundingOptions& options);

  absl::StatusOr<at::Tensor> Weight() override;
  void Judge(const at::Tensor&) override {}
  void Step(const at::Tensor& gradient, int64_t step) override;
  std::vector<std::pair<std::string, at::Tensor*>> State() override {
    return {{"v", &v_}, {"mean", &mean_}, {"square", &square_}};
  }
  // Every weight at the neighbour that it is closer to.
  absl::StatusOr<formats::QuantizedLinear> Finish() override;

  // The penalty's exponent at `step`; 0: there is no penalty yet.
  double BetaAt(int64_t step) const;
  // lambda * sum (1 - |2 h - 1|^beta) of the newest Weight().
  double Penalty(int64_t step) const;
  // The gradient of the whole objective, [rows, in], where `gradient` is the
  // loss's at the newest Weight(). Step uses it but for float32 on the CPU,
  // where one pass does it all.
  at::Tensor Gradient(const at::Tensor& gradient, int64_t step) const;
  // v, [rows, in]; the share of the way up is clamp(1.2 sigmoid(v) - 0.1).
  at::Tensor& variables() { return v_; }

 private:
  // [rows, in]: the sigmoid, h and the code between codes.
  struct Softened {
    at::Tensor sigmoid;
    at::Tensor share;
    at::Tensor position;
  };
  Softened Soften() const;
  kernels::GroupedRows Grouped() const;
  // What the kernels are to know of `step`.
  kernels::SoftStep StepAt(int64_t step) const;
  kernels::SoftState FusedState();
  void StepFused(const at::Tensor& gradient, int64_t step);

  const SoftRoundingOptions options_;
  const double max_code_;
  const double weights_in_loss_;
  formats::QuantizedLinear linear_;
  const ColumnGroups groups_;
  at::Tensor scales_;  // [rows, groups]
  at::Tensor zeros_;
  at::Tensor below_;  // [rows, in]: the code below each weight.
  at::Tensor v_;
  // float32 on the CPU.
  bool fused_ = false;
  // Adam's moments.
  at::Tensor mean_;
  at::Tensor square_;
};

}  // namespace quantd::methods
