// SPDX-License-Identifier: Apache-2.0
// Small floating-point types with one scale for each group, row, tile or
// tensor: one row per type, the words in docs/formats/float.md.
#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/base/status_macros.h"
#include "worker/formats/format.h"
#include "worker/formats/level_format.h"

namespace quantd::formats {
namespace {

struct FloatType {
  const char* id = "";
  int exponent_bits = 0;
  int mantissa_bits = 0;
  int bias = 0;
  float largest = 0;
  const char* words = "";
};

class FloatFormat : public LevelFormat {
 public:
  explicit FloatFormat(const FloatType& type)
      : LevelFormat(1 + type.exponent_bits + type.mantissa_bits,
                    MakeFloatTable(type.exponent_bits, type.mantissa_bits,
                                   type.bias, type.largest),
                    /*fixed_group_size=*/0) {}

  double BitsPerWeight(const WeightSpec& spec,
                       int64_t in_features) const override {
    const auto params = ParamsOf(spec);
    const Scope scope = params.ok() ? ScopeOf(*params) : Scope::kGroup;
    if (scope == Scope::kTensor) return bits();
    const double share = ScaleShare(spec, in_features, /*zero_bits=*/0);
    return bits() + (scope == Scope::kTile ? share / kTileRows : share);
  }

 protected:
  // The largest magnitude becomes the largest level. Values that a rounded
  // scale leaves above it saturate.
  absl::StatusOr<ScaleRule> MakeScaleRule(const WeightSpec& spec,
                                          float) const override {
    ASSIGN_OR_RETURN(const kernels::ScaleType type,
                     ParseScaleType(spec.scale_dtype));
    return [type, largest = largest()](float* values, int64_t count) {
      std::transform(values, values + count, values, [&](float amax) {
        return amax == 0 ? 1.0f : kernels::RoundScale(amax / largest, type);
      });
    };
  }
};

// Of the types that matrix units multiply there are kernels for tiles.
FormatEntry MakeEntry(const FloatType& type, bool with_tiles = false) {
  FormatEntry entry = MakeLevelEntry(type.id, "floating", "float",
                                     std::make_shared<FloatFormat>(type));
  entry.description.set_summary(
      absl::StrCat(type.words,
                   " with a scale for every group of input features, row or "
                   "layer."));
  *entry.description.add_params() = ScopeParameter(with_tiles);
  return entry;
}

// Types that matrix units multiply, so that activations have them too.
FormatEntry MakeActivationEntry(const FloatType& type) {
  FormatEntry entry = MakeEntry(type, /*with_tiles=*/true);
  for (const char* use : {"activations", "static_activations", "kv_cache"}) {
    entry.description.add_provides(use);
  }
  return entry;
}

}  // namespace

FormatEntry Fp4() {
  return MakeEntry({"fp4", 2, 1, 1, 6, "4-bit floats, E2M1,"});
}
FormatEntry Fp6E2m3() {
  return MakeEntry({"fp6_e2m3", 2, 3, 1, 7.5, "6-bit floats, E2M3,"});
}
FormatEntry Fp6E3m2() {
  return MakeEntry({"fp6_e3m2", 3, 2, 3, 28, "6-bit floats, E3M2,"});
}
FormatEntry Fp8E4m3() {
  return MakeActivationEntry(
      {"fp8_e4m3", 4, 3, 7, 448, "8-bit floats, E4M3FN,"});
}
FormatEntry Fp8E5m2() {
  return MakeActivationEntry(
      {"fp8_e5m2", 5, 2, 15, 57344, "8-bit floats, E5M2,"});
}

}  // namespace quantd::formats
