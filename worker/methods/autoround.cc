// SPDX-License-Identifier: Apache-2.0
// AutoRound: rounding offsets and ranges of all linears of a block, moved by
// the sign of their gradient so that the block's output stays close (Cheng et
// al., Optimize Weight Rounding via Signed Gradient Descent for the
// Quantization of LLMs, arXiv:2309.05516). docs/methods/autoround.md says where
// we differ from the paper.
#include <algorithm>
#include <memory>
#include <vector>

#include "proto/base/status_macros.h"
#include "worker/methods/block_method.h"
#include "worker/methods/method.h"
#include "worker/methods/reconstruct_block.h"
#include "worker/methods/reconstruct_linear.h"
#include "worker/methods/signed_rounding.h"

namespace quantd::methods {
namespace {

constexpr char kId[] = "autoround";

v1::ComponentEntry Describe() {
  v1::ComponentEntry entry;
  entry.set_seam(v1::SEAM_METHOD);
  entry.set_id(kId);
  entry.set_summary(
      "Moves rounding offsets and ranges of all weights of a decoder block by "
      "the sign of their gradient, to keep the block's output.");
  entry.set_reference(
      "Cheng et al., Optimize Weight Rounding via Signed Gradient Descent for "
      "the Quantization of LLMs, arXiv:2309.05516; docs/methods/autoround.md");
  *entry.add_params() = spec::IntParameter("iterations", 200, 0, 100000,
                                           "Steps; 0 rounds to nearest.");
  *entry.add_params() = spec::DoubleParameter(
      "learning_rate", 0, 0, 1,
      "First step size of the offsets, in codes; 0 stands for 1 / iterations.");
  *entry.add_params() = spec::DoubleParameter(
      "minmax_learning_rate", 0, 0, 1,
      "First step size of the ranges; 0 stands for that of the offsets.");
  *entry.add_params() =
      spec::BoolParameter("minmax", true, "Whether ranges are drawn in.");
  *entry.add_params() = spec::IntParameter(
      "batch", 8, 1, 4096, "Calibration sequences per iteration.");
  *entry.add_params() = spec::IntParameter(
      "seed", 42, 0, 4294967295, "Of the order in which sequences are taken.");
  RequireIntegers(&entry);
  return entry;
}

SignedRoundingOptions ReadOptions(const spec::Params& params) {
  SignedRoundingOptions options;
  options.iterations = params.GetInt("iterations");
  options.learning_rate = params.GetDouble("learning_rate");
  if (options.learning_rate == 0) {
    options.learning_rate =
        1.0 / static_cast<double>(std::max<int64_t>(1, options.iterations));
  }
  options.minmax_learning_rate = params.GetDouble("minmax_learning_rate");
  if (options.minmax_learning_rate == 0) {
    options.minmax_learning_rate = options.learning_rate;
  }
  if (!params.GetBool("minmax")) options.minmax_learning_rate = 0;
  return options;
}

class AutoroundMethod : public Method, public BlockMethod {
 public:
  AutoroundMethod(const SignedRoundingOptions& options,
                  const BlockSchedule& schedule, double min_tokens)
      : options_(options), schedule_(schedule), min_tokens_(min_tokens) {}

  Needs needs() const override { return Needs::kGram; }
  double min_tokens() const override { return min_tokens_; }
  const BlockMethod* block_method() const override { return this; }

  // A layer that stands alone, by the loss of its own output.
  absl::StatusOr<LinearSolution> QuantizeLinear(
      const LinearProblem& problem,
      const base::CancelToken& cancel) const override {
    RETURN_IF_ERROR(FindIntegerFormat(problem.spec, kId).status());
    return ReconstructLinear(problem, options_.iterations, Make(), cancel);
  }

  absl::StatusOr<std::vector<LinearSolution>> QuantizeBlock(
      const BlockProblem& problem,
      const base::CancelToken& cancel) const override {
    return ReconstructBlock(problem, schedule_, Make(), cancel);
  }

 private:
  MakeVariables Make() const {
    return [this](const RowsToRound& rows)
               -> absl::StatusOr<std::unique_ptr<RoundingVariables>> {
      ASSIGN_OR_RETURN(const formats::Format* format,
                       FindIntegerFormat(rows.spec, kId));
      ASSIGN_OR_RETURN(const spec::Params params, formats::ParamsOf(rows.spec));
      SignedRoundingOptions options = options_;
      // One grid for all groups cannot follow each of them.
      if (formats::HasTensorScope(params)) options.minmax_learning_rate = 0;
      return std::make_unique<SignedRounding>(rows, *format, options);
    };
  }

  const SignedRoundingOptions options_;
  const BlockSchedule schedule_;
  const double min_tokens_;
};

}  // namespace

MethodEntry Autoround() {
  MethodEntry entry;
  entry.description = Describe();
  entry.make = [](const spec::Params& params) -> std::unique_ptr<Method> {
    const SignedRoundingOptions options = ReadOptions(params);
    return std::make_unique<AutoroundMethod>(
        options,
        BlockSchedule{.iterations = options.iterations,
                      .batch = params.GetInt("batch"),
                      .seed = static_cast<uint64_t>(params.GetInt("seed"))},
        params.GetDouble("min_tokens"));
  };
  return entry;
}

}  // namespace quantd::methods
