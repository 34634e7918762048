// SPDX-License-Identifier: Apache-2.0
// Integers of 1 to 8 bits with a scale and a zero point per group: one row per
// width, the rules in integer_conventions.h, the words in docs/formats/int.md.
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/formats/format.h"
#include "worker/formats/integer_conventions.h"
#include "worker/kernels/operators.h"

namespace quantd::formats {
namespace {

class IntFormat : public Format {
 public:
  explicit IntFormat(int bits)
      : bits_(bits), levels_(at::arange(int64_t{1} << bits, at::kFloat)) {}

  int bits() const override { return bits_; }
  const at::Tensor& levels() const override { return levels_; }
  at::Tensor Values(const at::Tensor& codes) const override {
    return codes.to(at::kFloat);
  }

  double BitsPerWeight(const WeightSpec& spec,
                       int64_t in_features) const override {
    const auto params = ParamsOf(spec);
    if (params.ok() && ScopeOf(*params) == Scope::kTensor) return bits_;
    const int zero_bits = spec.symmetric ? 0 : bits_;
    return bits_ + ScaleShare(spec, in_features, zero_bits);
  }

  absl::StatusOr<std::optional<kernels::IntegerGridRule>> IntegerRule(
      const WeightSpec& spec) const override {
    ASSIGN_OR_RETURN(const IntegerGridOptions options, ReadOptions(spec));
    if (!options.plain) return std::nullopt;
    return options.rule;
  }

  absl::Status CheckLayout(const WeightSpec& spec) const override {
    return ReadOptions(spec).status();
  }

  absl::StatusOr<Grid> ChooseGrid(const at::Tensor& values,
                                  const WeightSpec& spec,
                                  float /*tensor_scale*/) const override {
    RETURN_IF_ERROR(CheckWeight(values));
    ASSIGN_OR_RETURN(const IntegerGridOptions options, ReadOptions(spec));
    return ChooseIntegerGrids(values, options);
  }

  at::Tensor Nearest(const at::Tensor& values,
                     const Grid& grid) const override {
    if (values.is_cpu()) return RoundToIntegers(values, grid, max_code());
    return values.div(grid.scale.to(values.device()).unsqueeze(1))
        .round_()
        .add_(grid.zero.to(values.device()).unsqueeze(1))
        .clamp_(0, max_code())
        .to(at::kByte);
  }

  absl::Status Finish(const WeightSpec&, float,
                      QuantizedLinear* linear) const override {
    linear->zeros = linear->zeros.to(at::kByte);
    return absl::OkStatus();
  }

  absl::StatusOr<QuantizedLinear> RoundToNearest(
      const at::Tensor& weight, const WeightSpec& spec,
      const base::CancelToken& cancel) const override {
    RETURN_IF_ERROR(CheckWeight(weight));
    ASSIGN_OR_RETURN(const auto rule, IntegerRule(spec));
    if (!rule.has_value()) {
      return Format::RoundToNearest(weight, spec, cancel);
    }
    RETURN_IF_ERROR(cancel.Check());
    QuantizedLinear linear = LayoutOf(weight, spec);
    const kernels::RoundingOutput output = kernels::RoundToNearest(
        weight.cpu().contiguous(), linear.group_size, *rule);
    linear.codes = output.codes;
    linear.scales = output.scales;
    linear.zeros = output.zeros;
    return linear;
  }

 private:
  absl::StatusOr<IntegerGridOptions> ReadOptions(const WeightSpec& spec) const {
    ASSIGN_OR_RETURN(const spec::Params params, ParamsOf(spec));
    ASSIGN_OR_RETURN(const kernels::ScaleType scale_type,
                     ParseScaleType(spec.scale_dtype));
    IntegerGridOptions options;
    options.rule = {max_code(), spec.symmetric, scale_type};
    const std::string& grid = params.GetString("grid");
    if (grid == "awq") options.convention = GridConvention::kAwq;
    if (grid == "full_range") options.convention = GridConvention::kFullRange;
    if (grid == "symmetric") options.convention = GridConvention::kSymmetric;
    options.clip = params.GetString("clip") == "mse";
    options.norm = params.GetDouble("clip_norm");
    options.importance = spec.importance;
    options.plain = options.convention == GridConvention::kGptq &&
                    !options.clip && ScopeOf(params) == Scope::kGroup;
    if (!spec.symmetric && !TakesZeroPoints(options.convention)) {
      return base::MakeError(
          absl::StatusCode::kInvalidArgument, "ASYMMETRIC_FORMAT",
          absl::StrCat("the grid ", grid,
                       " has no zero points; use symmetric weights, or the "
                       "grid gptq or awq"));
    }
    return options;
  }

  const int bits_;
  const at::Tensor levels_;
};

void RequireSymmetric(const std::string& when, FormatEntry* entry) {
  v1::Requirement* symmetric = entry->description.add_requirements();
  symmetric->set_seam(v1::SEAM_FORMAT);
  symmetric->set_property("symmetric");
  symmetric->set_when(when);
  symmetric->set_why("this grid has no zero points");
  symmetric->set_suggestion("use symmetric weights, or the grid gptq or awq");
}

void AddParameters(FormatEntry* entry) {
  *entry->description.add_params() = spec::StringParameter(
      "grid", "gptq", {"gptq", "awq", "full_range", "symmetric"},
      "Where a group's range lies on the codes: see docs/formats/int.md.");
  *entry->description.add_params() = spec::StringParameter(
      "clip", "none", {"none", "mse"},
      "Whether ranges are shrunk to where the error of rounding, to the power "
      "of clip_norm, is least.");
  *entry->description.add_params() = spec::DoubleParameter(
      "clip_norm", 2.4, 0.5, 8,
      "The power of a weight's error that clip=mse adds up.");
  *entry->description.add_params() = ScopeParameter();
  RequireSymmetric("grid=full_range", entry);
  RequireSymmetric("grid=symmetric", entry);
  for (const char* asked : {"grid=awq", "grid=full_range", "grid=symmetric",
                            "clip=mse", "scope=tensor"}) {
    v1::Requirement* method = entry->description.add_requirements();
    method->set_seam(v1::SEAM_METHOD);
    method->set_property("format_grids");
    method->set_when(asked);
    method->set_why("it chooses ranges of its own and would take no notice");
    method->set_suggestion("rtn or gptq");
  }
}

// Of two levels, an integer zero point makes one 0: whatever the other is, half
// of the weights are lost. Levels on both sides of 0 take a zero point between
// the codes.
void RequireFractionalZero(FormatEntry* entry) {
  v1::Requirement* method = entry->description.add_requirements();
  method->set_seam(v1::SEAM_METHOD);
  method->set_property("fractional_zero");
  method->set_why(
      "with a zero point that is an integer one of its two levels is 0 and all "
      "weights have one sign");
  method->set_suggestion("hqq");
  v1::Requirement* asymmetric = entry->description.add_requirements();
  asymmetric->set_seam(v1::SEAM_FORMAT);
  asymmetric->set_property("asymmetric");
  asymmetric->set_why("two levels around 0 take a zero point between them");
  asymmetric->set_suggestion("asymmetric weights");
}

FormatEntry MakeEntry(int bits) {
  FormatEntry entry;
  entry.description.set_seam(v1::SEAM_FORMAT);
  entry.description.set_id(absl::StrCat("int", bits));
  entry.description.set_summary(
      absl::StrCat(bits,
                   "-bit integers with a scale and a zero point for "
                   "every group of input features."));
  entry.description.set_reference("docs/formats/int.md");
  entry.description.add_provides("integer");
  entry.description.add_provides(absl::StrCat("bits=", bits));
  if (bits > 1) entry.description.add_provides("gptq_layout");
  // Codes that fill 32-bit words as the published GPTQ kernels read them.
  if (bits != 1 && bits != 5 && bits != 6) {
    entry.description.add_provides("gptq_stream");
  }
  if (bits > 1) entry.description.add_provides("kv_cache");
  // Narrower ones are published for keys and values alone.
  if (bits >= 4) {
    entry.description.add_provides("activations");
    entry.description.add_provides("static_activations");
  }
  AddParameters(&entry);
  if (bits == 1) RequireFractionalZero(&entry);
  entry.format = std::make_shared<IntFormat>(bits);
  return entry;
}

}  // namespace

FormatEntry Int1() { return MakeEntry(1); }
FormatEntry Int2() { return MakeEntry(2); }
FormatEntry Int3() { return MakeEntry(3); }
FormatEntry Int4() { return MakeEntry(4); }
FormatEntry Int5() { return MakeEntry(5); }
FormatEntry Int6() { return MakeEntry(6); }
FormatEntry Int8() { return MakeEntry(8); }

}  // namespace quantd::formats
