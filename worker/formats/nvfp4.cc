// SPDX-License-Identifier: Apache-2.0
// NVFP4: blocks of 16 E2M1 elements with an E4M3 scale each, and one float32
// for the tensor. docs/formats/nvfp4.md has the rule in words.
#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "proto/base/status_macros.h"
#include "worker/formats/format.h"
#include "worker/formats/level_format.h"
#include "worker/kernels/levels_cpu.h"

namespace quantd::formats {
namespace {

constexpr int64_t kBlock = 16;
constexpr int kScaleBits = 8;
constexpr float kLargestElement = 6;
constexpr float kLargestScale = 448;
// With four_or_six, the scale of the largest block where it goes to 6: what it
// is multiplied with to go to 4 is then still an E4M3 number (Cook et al., Four
// Over Six, arXiv:2512.02010).
constexpr float kLargestScaleOfSix = 256;
// In place of a block scale that rounds to 0, as compressed-tensors has it.
constexpr float kScaleForZero = 0.125f;

const kernels::LevelLookup& ScaleTable() {
  static const auto& table =
      *new kernels::LevelLookup(MakeFloatTable(4, 3, 7, kLargestScale));
  return table;
}

// The E4M3 codes nearest to `scales`.
void CodesOfScales(const float* scales, int64_t count, uint8_t* codes) {
  constexpr float kOne = 1;
  kernels::RoundToLevels(scales, 1, count, &kOne, ScaleTable(), codes);
}

// `scales` >= 0 as blocks store them, in place.
void RoundBlockScales(float* scales, int64_t count) {
  std::vector<uint8_t> codes(count);
  CodesOfScales(scales, count, codes.data());
  std::transform(codes.begin(), codes.end(), scales, [](uint8_t code) {
    const float rounded = ScaleTable().rule.levels[code];
    return rounded == 0 ? kScaleForZero : rounded;
  });
}

// Scales are those of the blocks divided by `tensor_scale`, the float32 of the
// tensor.
class Nvfp4Format : public LevelFormat {
 public:
  Nvfp4Format()
      : LevelFormat(4, MakeFloatTable(2, 1, 1, kLargestElement), kBlock) {}

  double BitsPerWeight(const WeightSpec&, int64_t in_features) const override {
    return bits() + GroupShare(in_features, kBlock, kScaleBits);
  }

  bool has_tensor_scale() const override { return true; }
  float TensorScale(const at::Tensor& weight,
                    const WeightSpec& spec) const override {
    const auto params = ParamsOf(spec);
    const bool four = params.ok() && params->GetBool("four_or_six");
    const float amax = std::max(LargestMagnitudes(weight).max().item<float>(),
                                spec.shared_range);
    if (amax == 0) return 1;
    const float range =
        kLargestElement * (four ? kLargestScaleOfSix : kLargestScale);
    return std::min(range / amax, std::numeric_limits<float>::max());
  }

  absl::StatusOr<Grid> ChooseGrid(const at::Tensor& values,
                                  const WeightSpec& spec,
                                  float tensor_scale) const override {
    ASSIGN_OR_RETURN(const spec::Params params, ParamsOf(spec));
    ASSIGN_OR_RETURN(const Grid six,
                     LevelFormat::ChooseGrid(values, spec, tensor_scale));
    if (!params.GetBool("four_or_six")) return six;
    const Grid four{LargestMagnitudes(values), at::Tensor()};
    ScaleFor(4, tensor_scale)(four.scale.mutable_data_ptr<float>(),
                              four.scale.numel());
    const at::Tensor better = Error(values, four).lt(Error(values, six));
    return Grid{at::where(better, four.scale, six.scale), at::Tensor()};
  }

  absl::Status Finish(const WeightSpec&, float tensor_scale,
                      QuantizedLinear* linear) const override {
    // The quotient is off by a rounding; the block's scale is the E4M3 number
    // next to it.
    const at::Tensor scales = linear->scales.mul(tensor_scale).contiguous();
    at::Tensor codes = at::full(scales.sizes(), 0, at::kByte);
    CodesOfScales(scales.const_data_ptr<float>(), scales.numel(),
                  codes.mutable_data_ptr<uint8_t>());
    linear->parts["block_scales"] = codes;
    linear->parts["tensor_scale"] = at::full({1}, tensor_scale);
    return absl::OkStatus();
  }

 protected:
  absl::StatusOr<ScaleRule> MakeScaleRule(const WeightSpec&,
                                          float tensor_scale) const override {
    return ScaleFor(kLargestElement, tensor_scale);
  }

 private:
  // Puts the largest magnitude of a block at `level`.
  static ScaleRule ScaleFor(float level, float tensor_scale) {
    return [level, tensor_scale](float* values, int64_t count) {
      std::transform(values, values + count, values,
                     [&](float amax) { return tensor_scale * (amax / level); });
      RoundBlockScales(values, count);
      std::transform(values, values + count, values,
                     [&](float scale) { return scale / tensor_scale; });
    };
  }

  // float32 [rows]: the squared error of rounding to `grid`, on the CPU.
  at::Tensor Error(const at::Tensor& values, const Grid& grid) const {
    return Values(Nearest(values, grid))
        .cpu()
        .mul_(grid.scale.unsqueeze(1))
        .sub_(values.cpu())
        .square_()
        .sum(1);
  }
};

}  // namespace

FormatEntry Nvfp4() {
  FormatEntry entry = MakeLevelEntry("nvfp4", "microscaling", "nvfp4",
                                     std::make_shared<Nvfp4Format>());
  entry.description.add_provides("activations");
  entry.description.add_provides("static_activations");
  entry.description.set_summary(
      "4-bit floats, E2M1, in blocks of 16 with an E4M3 scale each, and one "
      "float32 scale for the layer.");
  *entry.description.add_params() = spec::BoolParameter(
      "four_or_six", false,
      "Puts the largest magnitude of a block at 4 instead of 6 where that "
      "makes the squared error smaller.");
  return entry;
}

}  // namespace quantd::formats
