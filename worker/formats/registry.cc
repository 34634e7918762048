// SPDX-License-Identifier: Apache-2.0
// The list of number formats.
#include <ATen/core/Tensor.h>
#include <ATen/ops/isfinite.h>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/nearest.h"
#include "spdlog/spdlog.h"
#include "worker/formats/format.h"

namespace quantd::formats {

// int.cc
FormatEntry Int2();
FormatEntry Int3();
FormatEntry Int4();
FormatEntry Int5();
FormatEntry Int6();
FormatEntry Int8();

const std::vector<FormatEntry>& Registry() {
  static const auto& entries = *new std::vector<FormatEntry>{
      Int2(), Int3(), Int4(), Int5(), Int6(), Int8()};
  return entries;
}

absl::StatusOr<const Format*> FindFormat(absl::string_view id) {
  ASSIGN_OR_RETURN(const FormatEntry* entry,
                   spec::FindEntry(Registry(), "format", id));
  return entry->format.get();
}

absl::Status CheckWeight(const at::Tensor& weight) {
  if (weight.dim() != 2 || weight.numel() == 0 ||
      weight.scalar_type() != at::kFloat) {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "WEIGHT_SHAPE",
        "the weight of a linear layer must be a float32 matrix that is not "
        "empty");
  }
  if (at::isfinite(weight).all().item<bool>()) return absl::OkStatus();
  const int64_t bad =
      weight.numel() - at::isfinite(weight).sum().item<int64_t>();
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "NON_FINITE_WEIGHT",
      absl::StrCat(bad, " of ", weight.numel(),
                   " weights are infinite or not a number; the checkpoint "
                   "is damaged or was saved after training diverged"),
      {{"count", absl::StrCat(bad)}});
}

at::Tensor Dequantize(const QuantizedLinear& linear) {
  const auto format = FindFormat(linear.format);
  if (!format.ok()) {
    // Only a registered format can have made it.
    spdlog::critical("dequantize: {}", format.status().ToString());
    abort();
  }
  return (*format)->Dequantize(linear);
}

absl::StatusOr<QuantizedLinear> RoundToNearest(const at::Tensor& weight,
                                               const WeightSpec& spec) {
  ASSIGN_OR_RETURN(const Format* format, FindFormat(spec.format));
  return format->RoundToNearest(weight, spec);
}

}  // namespace quantd::formats
