// SPDX-License-Identifier: Apache-2.0
// AutoRound: rounding offsets and ranges of all linears of a block, moved by
// the sign of their gradient so that the block's output stays close (Cheng et
// al., Optimize Weight Rounding via Signed Gradient Descent for the
// Quantization of LLMs, arXiv:2309.05516). docs/methods/autoround.md says where
// we differ from the paper.
#include <algorithm>
#include <memory>

#include "proto/base/status_macros.h"
#include "worker/methods/method.h"
#include "worker/methods/reconstruction_method.h"
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
  entry.set_when(
      "With 2 and 3 bits, for the best quality that rounding alone gives, "
      "at some 150 times the time of gptq.");
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

absl::StatusOr<std::unique_ptr<RoundingVariables>> MakeSignedRounding(
    const RowsToRound& rows, const formats::Format& format,
    SignedRoundingOptions options) {
  ASSIGN_OR_RETURN(const spec::Params params, formats::ParamsOf(rows.spec));
  // One grid for all groups cannot follow each of them.
  if (formats::ScopeOf(params) != formats::Scope::kGroup)
    options.minmax_learning_rate = 0;
  return std::make_unique<SignedRounding>(rows, format, options);
}

}  // namespace

MethodEntry Autoround() {
  MethodEntry entry;
  entry.description = Describe();
  entry.make = [](const spec::Params& params) -> std::unique_ptr<Method> {
    const SignedRoundingOptions options = ReadOptions(params);
    return std::make_unique<ReconstructionMethod>(
        kId,
        BlockSchedule{.iterations = options.iterations,
                      .batch = params.GetInt("batch"),
                      .seed = static_cast<uint64_t>(params.GetInt("seed"))},
        params.GetDouble("min_tokens"),
        [options](const RowsToRound& rows, const formats::Format& format) {
          return MakeSignedRounding(rows, format, options);
        });
  };
  return entry;
}

}  // namespace quantd::methods
