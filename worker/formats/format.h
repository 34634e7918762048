// SPDX-License-Identifier: Apache-2.0
// The seam of number formats: how groups of weights become codes. One file per
// family of formats and one row of registry.cc per id.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "quantd/v1/catalog.pb.h"
#include "worker/formats/quantized_linear.h"
#include "worker/kernels/integer_grid.h"

namespace quantd::formats {

// How a layer is to be stored: the resolved WeightFormat of one module.
struct WeightSpec {
  std::string format;
  // -1: one group per row.
  int64_t group_size = 128;
  bool symmetric = true;
  // "float16", "bfloat16" or "float32".
  std::string scale_dtype = "float16";

  // Input features per group of a layer with `in_features` inputs.
  int64_t GroupSizeFor(int64_t in_features) const {
    return group_size <= 0 ? in_features : group_size;
  }
};

// One grid per row: code q stands for scale * (q - zero).
struct Grid {
  // float32 [rows], rounded to the storage type; positive and finite.
  at::Tensor scale;
  // float32 [rows], integer values 0 .. max_code.
  at::Tensor zero;
};

// Immutable and thread-safe; owned by the registry.
class Format {
 public:
  virtual ~Format() = default;
  // Bits per code.
  virtual int bits() const = 0;
  // The largest code, 2^bits - 1.
  int max_code() const { return (1 << bits()) - 1; }
  // The grid of each row of `values`, float32 [rows, group]: the min-max rule
  // of this format, see docs/formats/<id>.md. INVALID_ARGUMENT
  // (NON_FINITE_WEIGHT) where a value is not finite.
  virtual absl::StatusOr<Grid> ChooseGrid(const at::Tensor& values,
                                          const WeightSpec& spec) const = 0;
  // See the free function of this name.
  virtual absl::StatusOr<QuantizedLinear> RoundToNearest(
      const at::Tensor& weight, const WeightSpec& spec) const = 0;
  // float32 [out, in].
  virtual at::Tensor Dequantize(const QuantizedLinear& linear) const = 0;
  // The rule of the fused integer kernels; none for other number formats.
  // INVALID_ARGUMENT, SCALE_TYPE_UNKNOWN.
  virtual absl::StatusOr<std::optional<kernels::IntegerGridRule>> IntegerRule(
      const WeightSpec& spec) const = 0;
};

struct FormatEntry {
  v1::ComponentEntry description;
  std::shared_ptr<const Format> format;  // Shared by the registry alone.
};

// Alphabetical; built once.
const std::vector<FormatEntry>& Registry();

// NOT_FOUND naming the nearest ids.
absl::StatusOr<const Format*> FindFormat(absl::string_view id);

// float32 [out, in]. The format must be registered.
at::Tensor Dequantize(const QuantizedLinear& linear);

// OK for a float32 [out, in] weight with at least one element and only finite
// values; INVALID_ARGUMENT with WEIGHT_SHAPE or NON_FINITE_WEIGHT.
absl::Status CheckWeight(const at::Tensor& weight);

// Rounds to nearest, ties to even, with the grids of `spec` chosen from the
// weights themselves. `weight` is float32 [out, in]; the last group may be
// short.
absl::StatusOr<QuantizedLinear> RoundToNearest(const at::Tensor& weight,
                                               const WeightSpec& spec);

}  // namespace quantd::formats
