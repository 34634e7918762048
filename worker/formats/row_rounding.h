// SPDX-License-Identifier: Apache-2.0
// Rounds rows of numbers while a model runs: activations, keys, values. They
// are quantized and dequantized at once, so that whoever reads them computes in
// float32 what a program computes that keeps them in that number format. The
// grids are those of the formats; docs/activations.md has the rules in words.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/spec/glob.h"
#include "quantd/v1/recipe.pb.h"
#include "quantd/v1/report.pb.h"
#include "worker/formats/format.h"
#include "worker/numerics/rotation.h"

namespace quantd::formats {

// float32 [rows, width] -> the same shape, on the same device. A
// row's result depends on no other row. Rows with a value that is not finite
// may come back as they are, and all others with them. Thread-safe.
using RowRounding = std::function<at::Tensor(const at::Tensor& rows)>;

// How attention keeps the heads of tokens; empty functions leave them alone.
struct KvRounding {
  RowRounding keys = nullptr;
  RowRounding values = nullptr;
};

struct RowFormat {
  // Number format, its parameters, zero points. `group_size` values of a row
  // share a grid, where the format leaves that open.
  WeightSpec grid;
  // The part of its range that a grid covers.
  double clip_ratio = 1;
  // One range for all rows, known beforehand; else each row has its own.
  bool is_static = false;
  // Of static ranges: where in the tokens' largest values a range ends.
  double percentile = 100;
};

// How the inputs of a module are rounded; none where they are left alone.
// NOT_FOUND, COMPONENT_UNKNOWN; INVALID_ARGUMENT: PARAMETER_INVALID,
// ASYMMETRIC_FORMAT, ACTIVATION_SCOPE.
absl::StatusOr<std::optional<RowFormat>> ActivationFormat(
    const spec::ModuleSettings& settings);

// How keys and values are rounded; the rows are heads of tokens. Errors as
// above.
absl::StatusOr<KvRounding> MakeKvRounding(const v1::KvCache& cache);

// `range`: of a static format, as calibration found it; null where no token
// reached the module, whose rows then have ranges of their own. Errors as
// above.
absl::StatusOr<RowRounding> MakeRowRounding(const RowFormat& format,
                                            const v1::InputRange* range);

// Rounds rows in another basis and gives them back in their own: x becomes
// round(x Q) Q^T. Empty where `rounding` is.
RowRounding InBasis(const numerics::Rotation& rotation, RowRounding rounding);

}  // namespace quantd::formats
