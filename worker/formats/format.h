// SPDX-License-Identifier: Apache-2.0
// The seam of number formats: how groups of weights become codes. One file per
// family of formats and one row of registry.cc per id.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/base/cancel.h"
#include "proto/spec/params.h"
#include "quantd/v1/catalog.pb.h"
#include "quantd/v1/recipe.pb.h"
#include "worker/formats/quantized_linear.h"
#include "worker/kernels/integer_grid.h"
#include "worker/kernels/level_grid.h"

namespace quantd::formats {

// How a layer is to be stored: the resolved WeightFormat of one module.
struct WeightSpec {
  std::string format;
  // -1: one group per row.
  int64_t group_size = 128;
  bool symmetric = true;
  // "float16", "bfloat16" or "float32".
  std::string scale_dtype = "float16";
  // Parameters of the format that differ from the catalog's defaults.
  std::map<std::string, v1::Value> params = {};
  // float32 [in features]: what the error of a weight of each counts where
  // ranges are searched for the least error; undefined: all count alike.
  at::Tensor importance = {};
  // The largest magnitude of all weights that are to have the same tensor
  // scale (tensor_scale.h); 0: the weight's own is not shared. Formats without
  // one do not look at it.
  float shared_range = 0;

  // Input features per group of a layer with `in_features` inputs.
  int64_t GroupSizeFor(int64_t in_features) const {
    return group_size <= 0 ? in_features : group_size;
  }
};

// One grid per row: code q stands for scale * (level(q) - zero) + offset.
struct Grid {
  // float32 [rows], as a reader of the stored scale computes it; finite.
  at::Tensor scale;
  // float32 [rows]; undefined where the format has no zero points.
  at::Tensor zero = {};
  // float32 [rows]; undefined where the format has no offsets.
  at::Tensor offset = {};
};

// Immutable and thread-safe; owned by the registry.
class Format {
 public:
  virtual ~Format() = default;
  // Bits per code.
  virtual int bits() const = 0;
  // The largest code, 2^bits - 1.
  int max_code() const { return (1 << bits()) - 1; }
  // float32 [max_code + 1] on the CPU: what each code stands for before scale
  // and zero point. NaN for codes that are never written.
  virtual const at::Tensor& levels() const = 0;
  // The one group size this format has; 0 where any will do.
  virtual int64_t fixed_group_size() const { return 0; }
  // Bits per weight of a row of `in_features`, with its share of scales and
  // zero points.
  virtual double BitsPerWeight(const WeightSpec& spec,
                               int64_t in_features) const = 0;

  // The table that Nearest rounds by; null for integers. Lives as long as the
  // format.
  virtual const kernels::LevelGridRule* level_rule() const { return nullptr; }

  // Whether all groups of a weight share a factor, TensorScale, that may be
  // shared with further weights.
  virtual bool has_tensor_scale() const { return false; }
  // The factor that all groups of `weight`, float32 [out, in], share; 1 where
  // the format has none. Goes into ChooseGrid of every part of that weight.
  virtual float TensorScale(const at::Tensor& weight,
                            const WeightSpec& spec) const;
  // The grid of each row of `values`, float32 [rows, group]: the rule of this
  // format, see docs/formats/<id>.md. spec.importance, where it is defined, is
  // [groups, group] here, and row r has that of group r mod groups.
  // INVALID_ARGUMENT (NON_FINITE_WEIGHT) where a value is not finite, or what
  // is wrong with `spec`.
  virtual absl::StatusOr<Grid> ChooseGrid(const at::Tensor& values,
                                          const WeightSpec& spec,
                                          float tensor_scale) const = 0;
  // The code nearest to each value, uint8 [rows, group]; row r uses row r of
  // `grid`. Values beyond the grid get its ends.
  virtual at::Tensor Nearest(const at::Tensor& values,
                             const Grid& grid) const = 0;
  // INVALID_ARGUMENT where the format has no such layout of groups and zero
  // points: ASYMMETRIC_FORMAT, GROUP_SIZE_FIXED.
  virtual absl::Status CheckLayout(const WeightSpec& spec) const;
  // Brings scales and zero points that ChooseGrid chose into what is stored and
  // fills parts.
  virtual absl::Status Finish(const WeightSpec& spec, float tensor_scale,
                              QuantizedLinear* linear) const;

  // The grids of all groups of `weight`, float32 [out, in], in its column
  // order: a linear that lacks nothing but its codes. Errors as of ChooseGrid
  // and CheckLayout; CANCELLED.
  absl::StatusOr<QuantizedLinear> ChooseGrids(
      const at::Tensor& weight, const WeightSpec& spec,
      const base::CancelToken& cancel) const;
  // See the free function of this name.
  virtual absl::StatusOr<QuantizedLinear> RoundToNearest(
      const at::Tensor& weight, const WeightSpec& spec,
      const base::CancelToken& cancel) const;
  // levels()[codes], float32, on the device of `codes`.
  virtual at::Tensor Values(const at::Tensor& codes) const;
  // The rule by which the fused integer kernels choose and use grids as
  // ChooseGrid and Nearest do; none where they cannot: other number formats,
  // other grids. INVALID_ARGUMENT, SCALE_TYPE_UNKNOWN.
  virtual absl::StatusOr<std::optional<kernels::IntegerGridRule>> IntegerRule(
      const WeightSpec& spec) const;
};

struct FormatEntry {
  v1::ComponentEntry description;
  // What `--method <id>` stands for, where people ask for this format as for a
  // method; without a method in it there is no such preset.
  v1::Recipe preset;
  std::shared_ptr<const Format> format;  // Shared by the registry alone.
};

// Alphabetical; built once.
const std::vector<FormatEntry>& Registry();

// NOT_FOUND naming the nearest ids.
absl::StatusOr<const Format*> FindFormat(absl::string_view id);

// The parameters of spec.format with the catalog's defaults filled in.
// NOT_FOUND; INVALID_ARGUMENT, PARAMETER_INVALID.
absl::StatusOr<spec::Params> ParamsOf(const WeightSpec& spec);

// What weights share a grid.
enum class Scope {
  kGroup,   // A group of input features of one row.
  kTile,    // Those of kTileRows rows; the last tile may have fewer.
  kTensor,  // All rows and columns.
};
constexpr int64_t kTileRows = 128;

// The parameter `scope` that some formats have, in some `with_tiles`; kGroup
// for all others.
v1::Parameter ScopeParameter(bool with_tiles = false);
Scope ScopeOf(const spec::Params& params);

// What a scale of type `scale_dtype` takes. INVALID_ARGUMENT,
// SCALE_TYPE_UNKNOWN.
absl::StatusOr<kernels::ScaleType> ParseScaleType(
    const std::string& scale_dtype);

// Bits per weight that scales of spec.scale_dtype and zero points of
// `zero_bits` add to a row of `in_features`.
double ScaleShare(const WeightSpec& spec, int64_t in_features, int zero_bits);

// The shape of `weight`, [out, in], and the groups that `spec` cuts it into;
// the tensors are undefined.
QuantizedLinear LayoutOf(const at::Tensor& weight, const WeightSpec& spec);

// float32 [out, in]. The format must be registered.
at::Tensor Dequantize(const QuantizedLinear& linear);

// OK for a float32 [out, in] weight with at least one element and only finite
// values; INVALID_ARGUMENT with WEIGHT_SHAPE or NON_FINITE_WEIGHT.
absl::Status CheckWeight(const at::Tensor& weight);

// Rounds to nearest, ties to even, with the grids of `spec` chosen from the
// weights themselves. `weight` is float32 [out, in]; the last group may be
// short. Polls `cancel` several times a second, but for the search of one range
// for a whole tensor.
absl::StatusOr<QuantizedLinear> RoundToNearest(const at::Tensor& weight,
                                               const WeightSpec& spec,
                                               const base::CancelToken& cancel);
// The same without an end before its end.
absl::StatusOr<QuantizedLinear> RoundToNearest(const at::Tensor& weight,
                                               const WeightSpec& spec);

}  // namespace quantd::formats
