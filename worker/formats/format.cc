// SPDX-License-Identifier: Apache-2.0
// What every number format has in common.
#include "worker/formats/format.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "spdlog/spdlog.h"
#include "worker/kernels/row_ranges_cpu.h"

namespace quantd::formats {
namespace {

// Groups that are one row each: float32 [out * groups, group_size].
at::Tensor GroupRows(const at::Tensor& columns, int64_t group_size) {
  return columns.reshape({-1, group_size}).contiguous();
}

// `spec` with the importance of features [begin, begin + groups * group_size)
// as ChooseGrid takes it.
WeightSpec SpecOfGroups(const WeightSpec& spec, int64_t begin, int64_t groups,
                        int64_t group_size) {
  WeightSpec cut = spec;
  if (spec.importance.defined()) {
    cut.importance = spec.importance.narrow(0, begin, groups * group_size)
                         .view({groups, group_size});
  }
  return cut;
}

// Columns of `weight` that belong together: the whole groups, then the short
// one.
struct Part {
  at::Tensor columns;  // float32 [out, count]
  int64_t first_group = 0;
  int64_t groups = 0;
  int64_t group_size = 0;
};

std::vector<Part> Cut(const at::Tensor& weight, int64_t group_size) {
  const int64_t groups = weight.size(1) / group_size;
  const int64_t whole = groups * group_size;
  std::vector<Part> parts = {
      {weight.narrow(1, 0, whole), 0, groups, group_size}};
  if (const int64_t rest = weight.size(1) - whole; rest > 0) {
    parts.push_back({weight.narrow(1, whole, rest), groups, 1, rest});
  }
  return parts;
}

at::Tensor Join(const std::vector<at::Tensor>& parts, int64_t dimension) {
  return parts.size() == 1 ? parts[0].contiguous() : at::cat(parts, dimension);
}

absl::Status CheckShape(const at::Tensor& weight) {
  if (weight.dim() == 2 && weight.numel() != 0 &&
      weight.scalar_type() == at::kFloat) {
    return absl::OkStatus();
  }
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "WEIGHT_SHAPE",
      "the weight of a linear layer must be a float32 matrix that is not "
      "empty");
}

// Of a float32 matrix.
bool AllFinite(const at::Tensor& matrix) {
  if (!matrix.is_cpu() || !matrix.is_contiguous()) {
    return at::isfinite(matrix).all().item<bool>();
  }
  const float* values = matrix.const_data_ptr<float>();
  std::atomic<bool> finite = true;
  at::parallel_for(
      0, matrix.numel(), kernels::RowsPerThread(/*columns=*/1),
      [&](int64_t first, int64_t last) {
        float largest = 0;
        kernels::RowMagnitudes({1, last - first, values + first}, &largest);
        if (!std::isfinite(largest)) finite = false;
      });
  return finite;
}

// [out, groups] from one row per group.
at::Tensor PerGroup(const at::Tensor& rows, const Part& part) {
  return rows.cpu().view({-1, part.groups});
}

// Weights between two looks at the cancel token: some half second of one CPU
// core, where ranges are searched for each group.
constexpr int64_t kWeightsAtATime = int64_t{1} << 19;

// Cuts [0, rows) so that each part has at most that many weights.
template <typename Rows>
absl::Status ForRows(const at::Tensor& weight, const base::CancelToken& cancel,
                     const Rows& rows) {
  const int64_t out = weight.size(0);
  const int64_t step = std::max<int64_t>(1, kWeightsAtATime / weight.size(1));
  for (int64_t begin = 0; begin < out; begin += step) {
    RETURN_IF_ERROR(cancel.Check());
    RETURN_IF_ERROR(rows(begin, std::min(step, out - begin)));
  }
  return absl::OkStatus();
}

absl::Status ChooseGroupGrids(const Format& format, const at::Tensor& weight,
                              const WeightSpec& spec, float tensor_scale,
                              const base::CancelToken& cancel,
                              QuantizedLinear* linear) {
  std::vector<at::Tensor> scales;
  std::vector<at::Tensor> zeros;
  std::vector<at::Tensor> offsets;
  for (const Part& part : Cut(weight, linear->group_size)) {
    const WeightSpec own =
        SpecOfGroups(spec, part.first_group * linear->group_size, part.groups,
                     part.group_size);
    std::vector<at::Tensor> part_scales;
    std::vector<at::Tensor> part_zeros;
    std::vector<at::Tensor> part_offsets;
    const auto choose = [&](int64_t begin, int64_t count) -> absl::Status {
      const at::Tensor rows = part.columns.narrow(0, begin, count);
      ASSIGN_OR_RETURN(const Grid grid,
                       format.ChooseGrid(GroupRows(rows, part.group_size), own,
                                         tensor_scale));
      part_scales.push_back(PerGroup(grid.scale, part));
      if (grid.zero.defined()) part_zeros.push_back(PerGroup(grid.zero, part));
      if (grid.offset.defined()) {
        part_offsets.push_back(PerGroup(grid.offset, part));
      }
      return absl::OkStatus();
    };
    RETURN_IF_ERROR(ForRows(weight, cancel, choose));
    scales.push_back(Join(part_scales, 0));
    if (!part_zeros.empty()) zeros.push_back(Join(part_zeros, 0));
    if (!part_offsets.empty()) offsets.push_back(Join(part_offsets, 0));
  }
  linear->scales = Join(scales, 1);
  if (!zeros.empty()) linear->zeros = Join(zeros, 1);
  if (!offsets.empty()) linear->offsets = Join(offsets, 1);
  return absl::OkStatus();
}

// The groups of `band` one after another, each with all its rows:
// float32 [1, rows * columns].
at::Tensor TilesInARow(const at::Tensor& band, int64_t columns) {
  std::vector<at::Tensor> tiles;
  for (const Part& part : Cut(band, columns)) {
    tiles.push_back(
        part.columns.reshape({band.size(0), part.groups, part.group_size})
            .transpose(0, 1)
            .reshape({1, -1}));
  }
  return Join(tiles, 1);
}

// One grid for every tile of `rows` rows and `columns` columns, which is one
// group or all; repeated for every row and group of it, so that who reads
// groups need not know.
absl::Status ChooseTileGrids(const Format& format, const at::Tensor& weight,
                             const WeightSpec& spec, float tensor_scale,
                             int64_t rows, int64_t columns,
                             const base::CancelToken& cancel,
                             QuantizedLinear* linear) {
  const int64_t out = weight.size(0);
  const int64_t in = weight.size(1);
  const int64_t groups = (in + linear->group_size - 1) / linear->group_size;
  std::vector<at::Tensor> scales;
  std::vector<at::Tensor> zeros;
  for (int64_t row = 0; row < out; row += rows) {
    const int64_t height = std::min(rows, out - row);
    WeightSpec of_band = spec;
    if (spec.importance.defined()) {
      of_band.importance =
          TilesInARow(spec.importance.expand({height, in}), columns).view({-1});
    }
    QuantizedLinear band;
    band.group_size = height * columns;
    RETURN_IF_ERROR(ChooseGroupGrids(
        format, TilesInARow(weight.narrow(0, row, height), columns), of_band,
        tensor_scale, cancel, &band));
    scales.push_back(band.scales.expand({height, groups}));
    if (band.zeros.defined()) {
      zeros.push_back(band.zeros.expand({height, groups}));
    }
  }
  linear->scales = at::cat(scales, 0);
  if (!zeros.empty()) linear->zeros = at::cat(zeros, 0);
  return absl::OkStatus();
}

absl::Status ChooseScopeGrids(const Format& format, const at::Tensor& weight,
                              const WeightSpec& spec, float tensor_scale,
                              const base::CancelToken& cancel,
                              QuantizedLinear* linear) {
  ASSIGN_OR_RETURN(const spec::Params params, ParamsOf(spec));
  switch (ScopeOf(params)) {
    case Scope::kGroup:
      break;
    case Scope::kTile:
      return ChooseTileGrids(format, weight, spec, tensor_scale, kTileRows,
                             linear->group_size, cancel, linear);
    case Scope::kTensor:
      return ChooseTileGrids(format, weight, spec, tensor_scale, weight.size(0),
                             weight.size(1), cancel, linear);
  }
  return ChooseGroupGrids(format, weight, spec, tensor_scale, cancel, linear);
}

// The codes nearest to `weight` on the grids of `linear`.
absl::StatusOr<at::Tensor> NearestCodes(const Format& format,
                                        const at::Tensor& weight,
                                        const QuantizedLinear& linear,
                                        const base::CancelToken& cancel) {
  at::Tensor codes = at::empty({linear.out_features, linear.in_features},
                               at::TensorOptions(at::kByte));
  int64_t column = 0;
  for (const Part& part : Cut(weight, linear.group_size)) {
    const int64_t width = part.groups * part.group_size;
    const auto round = [&](int64_t begin, int64_t count) {
      const auto of_rows = [&](const at::Tensor& per_group) {
        return per_group.narrow(0, begin, count)
            .narrow(1, part.first_group, part.groups)
            .to(at::kFloat)
            .flatten();
      };
      Grid grid{.scale = of_rows(linear.scales)};
      if (linear.zeros.defined()) grid.zero = of_rows(linear.zeros);
      if (linear.offsets.defined()) grid.offset = of_rows(linear.offsets);
      const at::Tensor rows = part.columns.narrow(0, begin, count);
      codes.narrow(0, begin, count)
          .narrow(1, column, width)
          .copy_(format.Nearest(GroupRows(rows, part.group_size), grid)
                     .view({count, -1}));
      return absl::OkStatus();
    };
    RETURN_IF_ERROR(ForRows(weight, cancel, round));
    column += width;
  }
  return codes;
}

// `per_group` [out, groups] as [out, in].
at::Tensor SpreadGroups(const at::Tensor& per_group,
                        const QuantizedLinear& linear) {
  at::Tensor group = linear.group_index;
  if (!group.defined()) {
    group = at::arange(linear.in_features,
                       at::TensorOptions(per_group.device()).dtype(at::kInt))
                .floor_divide(linear.group_size);
  }
  return per_group.index_select(1, group.to(at::kLong));
}

}  // namespace

float Format::TensorScale(const at::Tensor&, const WeightSpec&) const {
  return 1;
}

absl::Status Format::CheckLayout(const WeightSpec&) const {
  return absl::OkStatus();
}

absl::Status Format::Finish(const WeightSpec&, float, QuantizedLinear*) const {
  return absl::OkStatus();
}

absl::StatusOr<std::optional<kernels::IntegerGridRule>> Format::IntegerRule(
    const WeightSpec&) const {
  return std::nullopt;
}

at::Tensor Format::Values(const at::Tensor& codes) const {
  return levels()
      .to(codes.device())
      .index_select(0, codes.flatten().to(at::kInt))
      .view(codes.sizes());
}

absl::StatusOr<QuantizedLinear> Format::ChooseGrids(
    const at::Tensor& weight, const WeightSpec& spec,
    const base::CancelToken& cancel) const {
  RETURN_IF_ERROR(CheckShape(weight));
  RETURN_IF_ERROR(CheckLayout(spec));
  QuantizedLinear linear = LayoutOf(weight, spec);
  const float tensor_scale = TensorScale(weight, spec);
  const absl::Status chosen =
      ChooseScopeGrids(*this, weight, spec, tensor_scale, cancel, &linear);
  if (!chosen.ok()) {
    // Of the whole weight first, not of some of its groups.
    if (!absl::IsCancelled(chosen)) RETURN_IF_ERROR(CheckWeight(weight));
    return chosen;
  }
  RETURN_IF_ERROR(Finish(spec, tensor_scale, &linear));
  return linear;
}

absl::StatusOr<QuantizedLinear> Format::RoundToNearest(
    const at::Tensor& weight, const WeightSpec& spec,
    const base::CancelToken& cancel) const {
  ASSIGN_OR_RETURN(QuantizedLinear linear, ChooseGrids(weight, spec, cancel));
  ASSIGN_OR_RETURN(linear.codes, NearestCodes(*this, weight, linear, cancel));
  return linear;
}

QuantizedLinear LayoutOf(const at::Tensor& weight, const WeightSpec& spec) {
  QuantizedLinear linear;
  linear.format = spec.format;
  linear.out_features = weight.size(0);
  linear.in_features = weight.size(1);
  linear.group_size =
      std::min(spec.GroupSizeFor(linear.in_features), linear.in_features);
  linear.symmetric = spec.symmetric;
  return linear;
}

at::Tensor Dequantize(const QuantizedLinear& linear) {
  const auto format = FindFormat(linear.format);
  if (!format.ok()) {
    // Only a registered format can have made it.
    spdlog::critical("dequantize: {}", format.status().ToString());
    abort();
  }
  at::Tensor values = (*format)->Values(linear.codes);
  if (linear.group_axis == 0) {
    values = values.view({-1, linear.scales.numel()});
    if (linear.zeros.defined()) values.sub_(linear.zeros);
    return values.mul_(linear.scales)
        .view({linear.out_features, linear.in_features});
  }
  const bool even = !linear.group_index.defined() &&
                    linear.in_features % linear.group_size == 0;
  if (even) {
    values = values.view({linear.out_features, -1, linear.group_size});
    if (linear.zeros.defined()) {
      values.sub_(linear.zeros.to(at::kFloat).unsqueeze(2));
    }
    values.mul_(linear.scales.unsqueeze(2));
    if (linear.offsets.defined()) values.add_(linear.offsets.unsqueeze(2));
    return values.view({linear.out_features, linear.in_features});
  }
  if (linear.zeros.defined()) {
    values.sub_(SpreadGroups(linear.zeros.to(at::kFloat), linear));
  }
  values.mul_(SpreadGroups(linear.scales, linear));
  if (linear.offsets.defined()) {
    values.add_(SpreadGroups(linear.offsets, linear));
  }
  return values;
}

absl::StatusOr<QuantizedLinear> RoundToNearest(
    const at::Tensor& weight, const WeightSpec& spec,
    const base::CancelToken& cancel) {
  ASSIGN_OR_RETURN(const Format* format, FindFormat(spec.format));
  return format->RoundToNearest(weight, spec, cancel);
}

absl::StatusOr<QuantizedLinear> RoundToNearest(const at::Tensor& weight,
                                               const WeightSpec& spec) {
  const base::CancelToken never;
  return RoundToNearest(weight, spec, never);
}

absl::Status CheckWeight(const at::Tensor& weight) {
  RETURN_IF_ERROR(CheckShape(weight));
  if (AllFinite(weight)) return absl::OkStatus();
  const at::Tensor finite = at::isfinite(weight);
  const int64_t bad = weight.numel() - finite.sum().item<int64_t>();
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "NON_FINITE_WEIGHT",
      absl::StrCat(bad, " of ", weight.numel(),
                   " weights are infinite or not a number; the checkpoint "
                   "is damaged or was saved after training diverged"),
      {{"count", absl::StrCat(bad)}});
}

v1::Parameter ScopeParameter(bool with_tiles) {
  std::vector<std::string> scopes = {"group", "tensor"};
  if (with_tiles) scopes.insert(scopes.begin() + 1, "tile");
  return spec::StringParameter(
      "scope", "group", scopes,
      absl::StrCat("What shares a grid: a group of input features of one row "
                   "(group size -1: the whole row), ",
                   with_tiles ? "such a group of 128 rows, " : "",
                   "or all weights of a layer."));
}

Scope ScopeOf(const spec::Params& params) {
  const auto scope = params.values().find("scope");
  if (scope == params.values().end()) return Scope::kGroup;
  if (scope->second.string_value() == "tile") return Scope::kTile;
  return scope->second.string_value() == "tensor" ? Scope::kTensor
                                                  : Scope::kGroup;
}

absl::StatusOr<kernels::ScaleType> ParseScaleType(
    const std::string& scale_dtype) {
  if (scale_dtype == "float16") return kernels::ScaleType::kFloat16;
  if (scale_dtype == "bfloat16") return kernels::ScaleType::kBfloat16;
  if (scale_dtype == "float32") return kernels::ScaleType::kFloat32;
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "SCALE_TYPE_UNKNOWN",
      absl::StrCat("scales cannot be stored as \"", scale_dtype,
                   "\"; use float16, bfloat16 or float32"));
}

double ScaleShare(const WeightSpec& spec, int64_t in_features, int zero_bits) {
  const int64_t group = std::min(spec.GroupSizeFor(in_features), in_features);
  const int64_t groups = (in_features + group - 1) / group;
  const int scale_bits = spec.scale_dtype == "float32" ? 32 : 16;
  return static_cast<double>(groups * (scale_bits + zero_bits)) /
         static_cast<double>(in_features);
}

}  // namespace quantd::formats
