// SPDX-License-Identifier: Apache-2.0
// Integers of 2 to 8 bits with a scale and a zero point per group: one row per
// width, the rule in worker/kernels/integer_grid.h, the words in
// docs/formats/int.md.
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/formats/format.h"
#include "worker/kernels/operators.h"

namespace quantd::formats {
namespace {

absl::StatusOr<kernels::ScaleType> ParseScaleType(const std::string& name) {
  if (name == "float16") return kernels::ScaleType::kFloat16;
  if (name == "bfloat16") return kernels::ScaleType::kBfloat16;
  if (name == "float32") return kernels::ScaleType::kFloat32;
  return base::MakeError(absl::StatusCode::kInvalidArgument,
                         "SCALE_TYPE_UNKNOWN",
                         absl::StrCat("scales cannot be stored as \"", name,
                                      "\"; use float16, bfloat16 or float32"));
}

// `per_group` [out, groups] as float32 [out, in].
at::Tensor SpreadGroups(const at::Tensor& per_group,
                        const QuantizedLinear& linear) {
  if (linear.group_index.defined()) {
    return per_group.index_select(1, linear.group_index.to(at::kLong));
  }
  const at::Tensor group =
      at::arange(linear.in_features).floor_divide(linear.group_size);
  return per_group.index_select(1, group);
}

class IntFormat : public Format {
 public:
  explicit IntFormat(int bits) : bits_(bits) {}

  int bits() const override { return bits_; }

  absl::StatusOr<std::optional<kernels::IntegerGridRule>> IntegerRule(
      const WeightSpec& spec) const override {
    ASSIGN_OR_RETURN(const kernels::ScaleType scale_type,
                     ParseScaleType(spec.scale_dtype));
    return kernels::IntegerGridRule{max_code(), spec.symmetric, scale_type};
  }

  absl::StatusOr<Grid> ChooseGrid(const at::Tensor& values,
                                  const WeightSpec& spec) const override {
    RETURN_IF_ERROR(CheckWeight(values));
    ASSIGN_OR_RETURN(const auto rule, IntegerRule(spec));
    const at::Tensor low = values.amin(1).cpu();
    const at::Tensor high = values.amax(1).cpu();
    Grid grid{at::empty_like(low), at::empty_like(low)};
    for (int64_t r = 0; r < low.size(0); ++r) {
      const kernels::IntegerGrid chosen =
          kernels::ChooseIntegerGrid(low.const_data_ptr<float>()[r],
                                     high.const_data_ptr<float>()[r], *rule);
      grid.scale.data_ptr<float>()[r] = chosen.scale;
      grid.zero.data_ptr<float>()[r] = chosen.zero;
    }
    return grid;
  }

  absl::StatusOr<QuantizedLinear> RoundToNearest(
      const at::Tensor& weight, const WeightSpec& spec) const override {
    RETURN_IF_ERROR(CheckWeight(weight));
    ASSIGN_OR_RETURN(const auto rule, IntegerRule(spec));
    QuantizedLinear linear;
    linear.format = spec.format;
    linear.out_features = weight.size(0);
    linear.in_features = weight.size(1);
    linear.group_size =
        std::min(spec.GroupSizeFor(linear.in_features), linear.in_features);
    linear.symmetric = spec.symmetric;
    const kernels::RoundingOutput output = kernels::RoundToNearest(
        weight.cpu().contiguous(), linear.group_size, *rule);
    linear.codes = output.codes;
    linear.scales = output.scales;
    linear.zeros = output.zeros;
    return linear;
  }

  at::Tensor Dequantize(const QuantizedLinear& linear) const override {
    const at::Tensor codes = linear.codes.to(at::kFloat);
    const at::Tensor zeros = linear.zeros.to(at::kFloat);
    const bool even = !linear.group_index.defined() &&
                      linear.in_features % linear.group_size == 0;
    if (even) {
      return codes.view({linear.out_features, -1, linear.group_size})
          .sub_(zeros.unsqueeze(2))
          .mul_(linear.scales.unsqueeze(2))
          .view({linear.out_features, linear.in_features});
    }
    return codes.sub(SpreadGroups(zeros, linear))
        .mul_(SpreadGroups(linear.scales, linear));
  }

 private:
  const int bits_;
};

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
  // Codes that fill 32-bit words as the published GPTQ kernels read them.
  if (bits != 5 && bits != 6) entry.description.add_provides("gptq_layout");
  entry.format = std::make_shared<IntFormat>(bits);
  return entry;
}

}  // namespace

FormatEntry Int2() { return MakeEntry(2); }
FormatEntry Int3() { return MakeEntry(3); }
FormatEntry Int4() { return MakeEntry(4); }
FormatEntry Int5() { return MakeEntry(5); }
FormatEntry Int6() { return MakeEntry(6); }
FormatEntry Int8() { return MakeEntry(8); }

}  // namespace quantd::formats
