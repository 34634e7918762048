// SPDX-License-Identifier: Apache-2.0
// BRECQ: AdaRound's variables of all linears of a block, learned together so
// that the block's output stays close (Li et al., BRECQ: Pushing the Limit of
// Post-Training Quantization by Block Reconstruction, arXiv:2102.05426).
// docs/methods/brecq.md says where we differ from the paper.
#include <memory>
#include <vector>

#include "proto/base/status_macros.h"
#include "worker/methods/block_method.h"
#include "worker/methods/method.h"
#include "worker/methods/reconstruct_block.h"
#include "worker/methods/reconstruct_linear.h"
#include "worker/methods/soft_rounding.h"

namespace quantd::methods {
namespace {

constexpr char kId[] = "brecq";

v1::ComponentEntry Describe() {
  v1::ComponentEntry entry;
  entry.set_seam(v1::SEAM_METHOD);
  entry.set_id(kId);
  entry.set_summary(
      "Learns for all weights of a decoder block together whether to round "
      "them up or down, to keep the block's output.");
  entry.set_reference(
      "Li et al., BRECQ: Pushing the Limit of Post-Training Quantization by "
      "Block Reconstruction, arXiv:2102.05426; docs/methods/brecq.md");
  AddSoftRoundingParameters({}, &entry);
  *entry.add_params() = spec::IntParameter(
      "batch", 4, 1, 4096, "Calibration sequences per iteration.");
  *entry.add_params() = spec::IntParameter(
      "seed", 0, 0, 4294967295, "Of the order in which sequences are taken.");
  RequireIntegers(&entry);
  return entry;
}

class BrecqMethod : public Method, public BlockMethod {
 public:
  BrecqMethod(const SoftRoundingOptions& options, const BlockSchedule& schedule,
              double min_tokens)
      : options_(options), schedule_(schedule), min_tokens_(min_tokens) {}

  Needs needs() const override { return Needs::kGram; }
  double min_tokens() const override { return min_tokens_; }
  const BlockMethod* block_method() const override { return this; }

  // A layer that stands alone is reconstructed alone, as published.
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
      return std::make_unique<SoftRounding>(rows, format->max_code(), options_);
    };
  }

  const SoftRoundingOptions options_;
  const BlockSchedule schedule_;
  const double min_tokens_;
};

}  // namespace

MethodEntry Brecq() {
  MethodEntry entry;
  entry.description = Describe();
  PresetOfSoftRounding(&entry.preset);
  entry.make = [](const spec::Params& params) -> std::unique_ptr<Method> {
    const SoftRoundingOptions options =
        ReadSoftRounding(params, /*cosine=*/false);
    return std::make_unique<BrecqMethod>(
        options,
        BlockSchedule{.iterations = options.iterations,
                      .batch = params.GetInt("batch"),
                      .seed = static_cast<uint64_t>(params.GetInt("seed"))},
        params.GetDouble("min_tokens"));
  };
  return entry;
}

}  // namespace quantd::methods
