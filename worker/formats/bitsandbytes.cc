// SPDX-License-Identifier: Apache-2.0
// The 4-bit tables of bitsandbytes: NF4 (Dettmers et al., QLoRA,
// arXiv:2305.14314, appendix E) and its own FP4, with scales as the largest
// magnitude of a block, which double quantization (section 3) stores in 8 bits.
// docs/formats/bitsandbytes.md has the rules in words.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "proto/base/status_macros.h"
#include "worker/formats/dynamic_map.h"
#include "worker/formats/format.h"
#include "worker/formats/level_format.h"

namespace quantd::formats {
namespace {

constexpr int kBits = 4;
constexpr char kDoubleQuant[] = "double_quant";

// Quantiles of a normal distribution, 0 among them.
std::vector<Level> NormalLevels() {
  constexpr float kTable[] = {
      -1.0f,
      -0.6961928009986877f,
      -0.5250730514526367f,
      -0.39491748809814453f,
      -0.28444138169288635f,
      -0.18477343022823334f,
      -0.09105003625154495f,
      0.0f,
      0.07958029955625534f,
      0.16093020141124725f,
      0.24611230194568634f,
      0.33791524171829224f,
      0.44070982933044434f,
      0.5626170039176941f,
      0.7229568362236023f,
      1.0f,
  };
  std::vector<Level> levels;
  for (uint8_t code = 0; code < 16; ++code) {
    levels.push_back({kTable[code], code});
  }
  return levels;
}

// Sign and magnitude; the codes of the magnitudes are not in their order. Of
// the two zeros, as the library's CPU kernel sorts them, code 8 is for what
// lies above 0.
std::vector<Level> BitsandbytesFloatLevels() {
  constexpr uint8_t kSign = 8;
  // Rising, in twelfths.
  constexpr struct {
    float twelfths;
    uint8_t code;
  } kMagnitudes[] = {{0.0625f, 1}, {2, 6}, {3, 7}, {4, 4},
                     {6, 5},       {8, 2}, {12, 3}};
  std::vector<Level> levels = {{0.0f, 0}, {-0.0f, kSign}};
  for (const auto& [twelfths, code] : kMagnitudes) {
    const float value = twelfths / 12;
    levels.push_back({value, code});
    levels.insert(levels.begin(), {-value, static_cast<uint8_t>(code | kSign)});
  }
  return levels;
}

kernels::LevelLookup TableOf(const std::vector<Level>& levels) {
  kernels::LevelLookup table{.rule = MakeLevelRule(levels, Ties::kDown)};
  table.rule.reciprocal = true;
  return table;
}

// Stores the scales of `linear` in 8 bits, in the order of the groups.
void QuantizeScales(QuantizedLinear* linear) {
  const DynamicCodes coded = EncodeDynamic(linear->scales.flatten());
  linear->parts["absmax_codes"] = coded.codes;
  linear->parts["nested_absmax"] = coded.absmax;
  linear->parts["nested_offset"] = coded.offset;
  linear->scales = DecodeDynamic(coded).view(linear->scales.sizes());
}

class TableFormat : public LevelFormat {
 public:
  explicit TableFormat(const std::vector<Level>& levels)
      : LevelFormat(kBits, TableOf(levels), /*fixed_group_size=*/0) {}

  double BitsPerWeight(const WeightSpec& spec,
                       int64_t in_features) const override {
    const auto params = ParamsOf(spec);
    const bool twice = params.ok() && params->GetBool(kDoubleQuant);
    const double scale_bits =
        twice ? 8 + 32.0 / static_cast<double>(kDynamicBlock) : 32;
    return bits() +
           GroupShare(in_features, spec.GroupSizeFor(in_features), scale_bits);
  }

  absl::Status Finish(const WeightSpec& spec, float,
                      QuantizedLinear* linear) const override {
    ASSIGN_OR_RETURN(const spec::Params params, ParamsOf(spec));
    if (params.GetBool(kDoubleQuant)) QuantizeScales(linear);
    return absl::OkStatus();
  }

  // Codes come from the scales before those are quantized, as bitsandbytes has
  // it.
  absl::StatusOr<QuantizedLinear> RoundToNearest(
      const at::Tensor& weight, const WeightSpec& spec,
      const base::CancelToken& cancel) const override {
    ASSIGN_OR_RETURN(const spec::Params params, ParamsOf(spec));
    WeightSpec plain = spec;
    plain.params[kDoubleQuant].set_bool_value(false);
    ASSIGN_OR_RETURN(QuantizedLinear linear,
                     LevelFormat::RoundToNearest(weight, plain, cancel));
    if (params.GetBool(kDoubleQuant)) QuantizeScales(&linear);
    return linear;
  }

 protected:
  absl::StatusOr<ScaleRule> MakeScaleRule(const WeightSpec&,
                                          float) const override {
    // Where the reciprocal is not finite all of the block becomes 0.
    return [](float* values, int64_t count) {
      std::transform(values, values + count, values, [](float amax) {
        return std::isfinite(1.0f / amax) ? amax : 0.0f;
      });
    };
  }
};

FormatEntry MakeEntry(const std::string& id, const std::string& summary,
                      const std::vector<Level>& levels) {
  FormatEntry entry = MakeLevelEntry(id, "codebook", "bitsandbytes",
                                     std::make_shared<TableFormat>(levels));
  entry.description.set_summary(summary);
  *entry.description.add_params() = spec::BoolParameter(
      kDoubleQuant, false,
      "Stores the scales in 8 bits, less their mean, with a float32 for every "
      "256 of them.");
  return entry;
}

}  // namespace

FormatEntry Nf4() {
  FormatEntry entry =
      MakeEntry("nf4",
                "NormalFloat: 16 quantiles of a normal distribution, times "
                "the largest magnitude of a block, as bitsandbytes has it.",
                NormalLevels());
  // As QLoRA loads a model.
  entry.preset.mutable_method()->set_id("rtn");
  v1::WeightFormat* weights = entry.preset.mutable_weights();
  weights->set_format("nf4");
  weights->set_group_size(64);
  weights->set_symmetric(true);
  (*weights->mutable_params())[kDoubleQuant].set_bool_value(true);
  entry.preset.add_exports()->set_id("dequantized");
  return entry;
}

FormatEntry Fp4Bnb() {
  return MakeEntry("fp4_bnb",
                   "The 4-bit floats of bitsandbytes, which are not E2M1, "
                   "times the largest magnitude of a block.",
                   BitsandbytesFloatLevels());
}

}  // namespace quantd::formats
