// SPDX-License-Identifier: Apache-2.0
// BRECQ: AdaRound's variables of all linears of a block, learned together so
// that the block's output stays close (Li et al., BRECQ: Pushing the Limit of
// Post-Training Quantization by Block Reconstruction, arXiv:2102.05426).
// docs/methods/brecq.md says where we differ from the paper.
#include <memory>

#include "worker/methods/method.h"
#include "worker/methods/reconstruction_method.h"
#include "worker/methods/soft_rounding.h"

namespace quantd::methods {
namespace {

constexpr char kId[] = "brecq";
// In groups of 128 int4 takes 4.125 bits and int6 6.125: a quarter of the
// weights in int6.
constexpr double kAverageBits = 4.625;
constexpr char kFisher[] = "fisher";

v1::ComponentEntry Describe() {
  v1::ComponentEntry entry;
  entry.set_seam(v1::SEAM_METHOD);
  entry.set_id(kId);
  entry.set_summary(
      "Learns for all weights of a decoder block together whether to round "
      "them up or down, to keep the block's output.");
  entry.set_when(
      "With 2 and 3 bits, when time matters less than quality and whole "
      "blocks are to be kept.");
  entry.set_reference(
      "Li et al., BRECQ: Pushing the Limit of Post-Training Quantization by "
      "Block Reconstruction, arXiv:2102.05426; docs/methods/brecq.md");
  AddSoftRoundingParameters({}, &entry);
  *entry.add_params() = spec::IntParameter(
      "batch", 4, 1, 4096, "Calibration sequences per iteration.");
  *entry.add_params() = spec::IntParameter(
      "seed", 0, 0, 4294967295, "Of the order in which sequences are taken.");
  *entry.add_params() = spec::StringParameter(
      "weighting", "plain", {"plain", kFisher},
      "Whether errors of a block's output count alike, or by the square of the "
      "float model's loss gradient.");
  RequireIntegers(&entry);
  return entry;
}

}  // namespace

MethodEntry Brecq() {
  MethodEntry entry;
  entry.description = Describe();
  PresetOfSoftRounding(&entry.preset);
  v1::Component* mixed = entry.preset.mutable_mixed();
  mixed->set_id("sensitivity");
  (*mixed->mutable_params())["formats"].set_string_value("int4+int6");
  (*mixed->mutable_params())["average_bits"].set_double_value(kAverageBits);
  entry.make = [](const spec::Params& params) -> std::unique_ptr<Method> {
    const SoftRoundingOptions options =
        ReadSoftRounding(params, /*cosine=*/false);
    return std::make_unique<ReconstructionMethod>(
        kId,
        BlockSchedule{.iterations = options.iterations,
                      .batch = params.GetInt("batch"),
                      .seed = static_cast<uint64_t>(params.GetInt("seed")),
                      .weighted = params.GetString("weighting") == kFisher},
        params.GetDouble("min_tokens"),
        [options](const RowsToRound& rows, const formats::Format& format) {
          return std::make_unique<SoftRounding>(rows, format.max_code(),
                                                options);
        });
  };
  return entry;
}

}  // namespace quantd::methods
