// SPDX-License-Identifier: Apache-2.0
// OCP Microscaling: blocks of 32 small elements that share a power of two
// (OCP Microscaling Formats Specification v1.0). One row per element type; the
// scale rules in words are in docs/formats/mx.md.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/base/status_macros.h"
#include "worker/formats/format.h"
#include "worker/formats/level_format.h"

namespace quantd::formats {
namespace {

constexpr int64_t kBlock = 32;
constexpr int kScaleBits = 8;
// E8M0: the byte e stands for 2^(e - 127); 255 is NaN and never written.
constexpr int kScaleBias = 127;

struct ElementType {
  const char* id = "";
  int exponent_bits = 0;
  int mantissa_bits = 0;
  int bias = 0;
  float largest = 0;
  // The exponent of the largest normal number.
  int largest_exponent = 0;
  // Mantissa bits that the rule "even" rounds the largest magnitude to.
  int even_bits = 0;
  const char* words = "";
};

// Two's complement in units of 1/64; -128 has no mirror image and is not used.
std::vector<Level> IntegerLevels() {
  std::vector<Level> levels;
  for (int q = -127; q <= 127; ++q) {
    levels.push_back(
        {static_cast<float>(q) / 64, static_cast<uint8_t>(q & 0xff)});
  }
  return levels;
}

kernels::LevelLookup TableOf(const ElementType& type) {
  if (type.exponent_bits != 0) {
    return MakeFloatTable(type.exponent_bits, type.mantissa_bits, type.bias,
                          type.largest);
  }
  return {.rule = MakeLevelRule(IntegerLevels(), Ties::kToEvenCode),
          .spacing = {.kind = kernels::LevelSpacing::Kind::kEven,
                      .largest = type.largest,
                      .per_unit = 64}};
}

// floor(log2 x), x > 0.
int FloorLog2(double x) {
  int exponent = 0;
  std::frexp(x, &exponent);
  return exponent - 1;
}

int CeilLog2(double x) {
  int exponent = 0;
  return std::frexp(x, &exponent) == 0.5 ? exponent - 1 : exponent;
}

// floor(log2) of x rounded to `bits` of mantissa, halves away from zero: only
// what rounds up to the next power of two matters.
int RoundedLog2(double x, int bits) {
  int exponent = 0;
  const double fraction = std::frexp(x, &exponent);  // [0.5, 1)
  const double least_up = 1 - std::ldexp(1.0, -(bits + 2));
  return fraction >= least_up ? exponent : exponent - 1;
}

// The exponent of the shared scale for a block whose largest magnitude is
// `amax` > 0, before it is brought into E8M0's range.
using ExponentRule = int (*)(const ElementType& type, double amax);

ExponentRule FindExponentRule(const std::string& rule) {
  if (rule == "floor") {
    return [](const ElementType& type, double amax) {
      return FloorLog2(amax) - type.largest_exponent;
    };
  }
  if (rule == "ceil") {
    return [](const ElementType& type, double amax) {
      return CeilLog2(amax) - type.largest_exponent;
    };
  }
  if (rule == "rceil") {
    // The quotient is never so close to a power of two that a double hides it.
    return [](const ElementType& type, double amax) {
      return CeilLog2(amax / type.largest);
    };
  }
  return [](const ElementType& type, double amax) {
    return RoundedLog2(amax, type.even_bits) - type.largest_exponent;
  };
}

class MxFormat : public LevelFormat {
 public:
  explicit MxFormat(const ElementType& type)
      : LevelFormat(type.exponent_bits == 0
                        ? 8
                        : 1 + type.exponent_bits + type.mantissa_bits,
                    TableOf(type), kBlock),
        type_(type) {}

  double BitsPerWeight(const WeightSpec&, int64_t in_features) const override {
    return bits() + GroupShare(in_features, kBlock, kScaleBits);
  }

 protected:
  absl::StatusOr<ScaleRule> MakeScaleRule(const WeightSpec& spec,
                                          float) const override {
    ASSIGN_OR_RETURN(const spec::Params params, ParamsOf(spec));
    // Up to here the largest level is a float32 number.
    const int most =
        FloorLog2(std::numeric_limits<float>::max() / double{type_.largest});
    return [rule = FindExponentRule(params.GetString("scale_rule")),
            type = type_, most](float* values, int64_t count) {
      std::transform(values, values + count, values, [&](float amax) {
        const int exponent = amax > 0 ? rule(type, amax) : -kScaleBias;
        return std::ldexp(1.0f, std::clamp(exponent, -kScaleBias, most));
      });
    };
  }

 private:
  const ElementType type_;
};

FormatEntry MakeEntry(const ElementType& type) {
  FormatEntry entry = MakeLevelEntry(type.id, "microscaling", "mx",
                                     std::make_shared<MxFormat>(type));
  entry.description.add_provides("activations");
  entry.description.set_summary(absl::StrCat("OCP Microscaling: blocks of 32 ",
                                             type.words,
                                             " that share a power of two."));
  *entry.description.add_params() = spec::StringParameter(
      "scale_rule", "even", {"floor", "ceil", "even", "rceil"},
      "How the largest magnitude of a block chooses the shared power of two: "
      "as the OCP specification says (floor), never clipping (ceil, rceil), or "
      "with that magnitude rounded first (even).");
  return entry;
}

}  // namespace

FormatEntry Mxfp4() {
  return MakeEntry({"mxfp4", 2, 1, 1, 6, 2, 1, "4-bit floats, E2M1,"});
}
FormatEntry Mxfp6E2m3() {
  return MakeEntry({"mxfp6_e2m3", 2, 3, 1, 7.5, 2, 3, "6-bit floats, E2M3,"});
}
FormatEntry Mxfp6E3m2() {
  return MakeEntry({"mxfp6_e3m2", 3, 2, 3, 28, 4, 2, "6-bit floats, E3M2,"});
}
// Eight-bit elements end at 1.75 times their largest power of two, so that
// rounding to one bit of mantissa is what keeps all values inside.
FormatEntry Mxfp8E4m3() {
  return MakeEntry({"mxfp8_e4m3", 4, 3, 7, 448, 8, 1, "8-bit floats, E4M3FN,"});
}
FormatEntry Mxfp8E5m2() {
  return MakeEntry(
      {"mxfp8_e5m2", 5, 2, 15, 57344, 15, 1, "8-bit floats, E5M2,"});
}
FormatEntry Mxint8() {
  return MakeEntry({"mxint8", 0, 0, 0, 127.0f / 64, 0, 6, "8-bit integers"});
}

}  // namespace quantd::formats
