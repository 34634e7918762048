// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/row_rounding.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/activation_rules.h"

namespace quantd::formats {
namespace {

absl::Status CheckFormat(const RowFormat& format) {
  ASSIGN_OR_RETURN(const Format* numbers, FindFormat(format.grid.format));
  RETURN_IF_ERROR(numbers->CheckLayout(format.grid));
  ASSIGN_OR_RETURN(const spec::Params params, ParamsOf(format.grid));
  if (ScopeOf(params) == Scope::kGroup) return absl::OkStatus();
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "ACTIVATION_SCOPE",
      absl::StrCat(
          "activations in ", format.grid.format,
          " cannot have one grid for tokens that are computed at once: a "
          "token would depend on those after it; leave scope out, or "
          "use static ranges"));
}

// Fills what formats of all uses have in common and checks it.
absl::StatusOr<RowFormat> Complete(
    const std::string& id, bool asymmetric, double clip_ratio,
    const google::protobuf::Map<std::string, v1::Value>& params,
    RowFormat format) {
  ASSIGN_OR_RETURN(const Format* numbers, FindFormat(id));
  format.grid.format = id;
  format.grid.symmetric = !asymmetric;
  // Nothing is stored, so nothing rounds the scales.
  format.grid.scale_dtype = "float32";
  format.grid.params.insert(params.begin(), params.end());
  if (numbers->fixed_group_size() != 0) {
    format.grid.group_size = numbers->fixed_group_size();
  }
  if (clip_ratio != 0) format.clip_ratio = clip_ratio;
  RETURN_IF_ERROR(CheckFormat(format));
  return format;
}

class Rounder {
 public:
  Rounder(const RowFormat& format, const Format* numbers)
      : numbers_(*numbers),
        spec_(format.grid),
        clip_ratio_(format.clip_ratio),
        row_scale_(numbers->TensorScale(at::ones({1, 1}), format.grid)),
        has_tensor_scale_(numbers->has_tensor_scale()) {}

  // Lays the grid over `range` for all rows.
  absl::Status Fix(const v1::InputRange& range) {
    const at::Tensor ends = at::tensor({static_cast<float>(range.low()),
                                        static_cast<float>(range.high())})
                                .mul_(clip_ratio_)
                                .view({1, 2});
    RETURN_IF_ERROR(CheckWeight(ends));
    if (has_tensor_scale_) {
      tensor_scale_ = numbers_.TensorScale(ends, spec_);
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(fixed_, numbers_.ChooseGrid(ends, spec_, 1));
    return absl::OkStatus();
  }

  at::Tensor Round(const at::Tensor& rows) const {
    const int64_t width = rows.size(1);
    if (rows.numel() == 0) return rows;
    const int64_t group = std::min(spec_.GroupSizeFor(width), width);
    // Every range holds 0, so that zeros change no grid.
    const int64_t missing = (group - width % group) % group;
    const at::Tensor whole =
        missing == 0 ? rows : at::constant_pad_nd(rows, {0, missing});
    const at::Tensor rounded = RoundWhole(whole.contiguous(), group);
    if (!rounded.defined()) return rows;
    return missing == 0 ? rounded : rounded.narrow(1, 0, width).contiguous();
  }

 private:
  // Of rows of whole groups; undefined where a value is not finite.
  at::Tensor RoundWhole(const at::Tensor& rows, int64_t group) const {
    if (!has_tensor_scale_ || tensor_scale_.has_value()) {
      return RoundGroups(rows.view({-1, group}), tensor_scale_.value_or(1),
                         rows);
    }
    // A token's own tensor scale: the token is brought to the largest
    // magnitude 1, for which all have the same one.
    const at::Tensor peak = rows.abs().amax(1, /*keepdim=*/true);
    const at::Tensor unit = rows.div(peak.masked_fill(peak.eq(0), 1));
    const at::Tensor rounded =
        RoundGroups(unit.view({-1, group}), row_scale_, rows);
    return rounded.defined() ? rounded.mul_(peak) : rounded;
  }

  absl::StatusOr<Grid> GridOf(const at::Tensor& groups,
                              float tensor_scale) const {
    if (!fixed_.scale.defined()) {
      return numbers_.ChooseGrid(
          clip_ratio_ == 1 ? groups : groups.mul(clip_ratio_), spec_,
          tensor_scale);
    }
    RETURN_IF_ERROR(CheckWeight(groups));
    const auto for_all = [&](const at::Tensor& one) {
      return one.defined() ? one.expand({groups.size(0)}) : one;
    };
    return Grid{for_all(fixed_.scale), for_all(fixed_.zero)};
  }

  at::Tensor RoundGroups(const at::Tensor& groups, float tensor_scale,
                         const at::Tensor& rows) const {
    const absl::StatusOr<Grid> grid = GridOf(groups, tensor_scale);
    if (!grid.ok()) return at::Tensor();
    at::Tensor values = numbers_.Values(numbers_.Nearest(groups, *grid));
    const auto column = [&](const at::Tensor& per_row) {
      return per_row.to(values.device()).unsqueeze(1);
    };
    if (grid->zero.defined()) values.sub_(column(grid->zero));
    return values.mul_(column(grid->scale)).view(rows.sizes());
  }

  const Format& numbers_;
  const WeightSpec spec_;
  const double clip_ratio_;
  // Of a row whose largest magnitude is 1.
  const float row_scale_;
  const bool has_tensor_scale_;
  // Of static ranges one of the two.
  std::optional<float> tensor_scale_;
  Grid fixed_;
};

}  // namespace

absl::StatusOr<std::optional<RowFormat>> ActivationFormat(
    const spec::ModuleSettings& settings) {
  if (settings.skip || spec::LeavesAlone(settings.activations)) {
    return std::nullopt;
  }
  const v1::ActivationRounding& rounding = settings.rounding;
  RowFormat format;
  format.grid.group_size = -1;
  format.is_static = rounding.range() == "static";
  if (rounding.percentile() != 0) format.percentile = rounding.percentile();
  return Complete(settings.activations, rounding.asymmetric(),
                  rounding.clip_ratio(), rounding.params(), std::move(format));
}

absl::StatusOr<KvRounding> MakeKvRounding(const v1::KvCache& cache) {
  if (spec::LeavesAlone(cache.format())) return KvRounding();
  RowFormat format;
  format.grid.group_size = cache.group_size() > 0 ? cache.group_size() : -1;
  ASSIGN_OR_RETURN(
      format, Complete(cache.format(), cache.asymmetric(), cache.clip_ratio(),
                       cache.params(), std::move(format)));
  ASSIGN_OR_RETURN(const RowRounding rounding,
                   MakeRowRounding(format, /*range=*/nullptr));
  if (!cache.rotate_keys()) return KvRounding{rounding, rounding};
  // q Q (k Q)^T is q k^T, so that turning back the rounded keys does for
  // rotating the queries.
  return KvRounding{[rounding](const at::Tensor& heads) {
                      return InBasis(numerics::Rotation::Plain(heads.size(1)),
                                     rounding)(heads);
                    },
                    rounding};
}

absl::StatusOr<RowRounding> MakeRowRounding(const RowFormat& format,
                                            const v1::InputRange* range) {
  RETURN_IF_ERROR(CheckFormat(format));
  ASSIGN_OR_RETURN(const Format* numbers, FindFormat(format.grid.format));
  // Shared by the copies of the function, which never change it.
  const auto rounder = std::make_shared<Rounder>(format, numbers);
  if (format.is_static && range != nullptr) {
    RETURN_IF_ERROR(rounder->Fix(*range));
  }
  return RowRounding(
      [rounder](const at::Tensor& rows) { return rounder->Round(rows); });
}

RowRounding InBasis(const numerics::Rotation& rotation, RowRounding rounding) {
  if (rounding == nullptr) return rounding;
  return [rotation, rounding = std::move(rounding)](const at::Tensor& rows) {
    return rotation.Undo(rounding(rotation.Apply(rows)));
  };
}

}  // namespace quantd::formats
