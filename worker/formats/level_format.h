// SPDX-License-Identifier: Apache-2.0
// What formats share whose codes stand for a fixed table of levels.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "worker/formats/format.h"
#include "worker/kernels/level_grid.h"
#include "worker/kernels/levels_cpu.h"

namespace quantd::formats {

// One code of a table.
struct Level {
  float value = 0;
  uint8_t code = 0;
};

// Where a value goes that lies in the middle between two levels.
enum class Ties {
  kToEvenCode,  // To the level whose code is even: IEEE 754's rule.
  kDown,        // To the smaller level.
  kUp,          // To the larger level.
  kOutward,     // To the level of the larger magnitude.
};

// `levels` in rising order, -0 before +0. The middles are float32, and exact
// for every binary floating-point type of at most 8 bits.
kernels::LevelGridRule MakeLevelRule(const std::vector<Level>& levels,
                                     Ties ties);

// Levels of a sign-magnitude floating-point type of 1 + exponent_bits +
// mantissa_bits bits, subnormals included; codes above `largest` (infinities,
// NaNs) are left out.
std::vector<Level> FloatLevels(int exponent_bits, int mantissa_bits, int bias,
                               float largest);

// The table of such a type, ties to even codes. At least one bit of mantissa.
kernels::LevelLookup MakeFloatTable(int exponent_bits, int mantissa_bits,
                                    int bias, float largest);

// float32 [rows] on the CPU: the largest |x| of each row of a float32 matrix;
// not finite where a value of the row is not.
at::Tensor LargestMagnitudes(const at::Tensor& rows);

// All of such a format but the choice of its grids.
class LevelTable : public Format {
 public:
  // `fixed_group_size` 0: any group size will do.
  LevelTable(int bits, const kernels::LevelLookup& table,
             int64_t fixed_group_size);

  int bits() const override { return bits_; }
  const at::Tensor& levels() const override { return levels_; }
  const kernels::LevelGridRule* level_rule() const override {
    return &table_.rule;
  }
  int64_t fixed_group_size() const override { return fixed_group_size_; }
  absl::Status CheckLayout(const WeightSpec& spec) const override;
  at::Tensor Nearest(const at::Tensor& values, const Grid& grid) const override;
  // The largest finite level.
  float largest() const { return largest_; }

 private:
  const int bits_;
  const kernels::LevelLookup table_;
  const int64_t fixed_group_size_;
  at::Tensor levels_;
  float largest_ = 0;
};

// Makes scales of groups out of their largest magnitudes, which are finite:
// `count` of them, in place.
using ScaleRule = std::function<void(float* values, int64_t count)>;

// Levels around 0, whose scale follows from a group's largest magnitude.
class LevelFormat : public LevelTable {
 public:
  using LevelTable::LevelTable;

  absl::StatusOr<Grid> ChooseGrid(const at::Tensor& values,
                                  const WeightSpec& spec,
                                  float tensor_scale) const override;

 protected:
  // INVALID_ARGUMENT: what is wrong with the parameters.
  virtual absl::StatusOr<ScaleRule> MakeScaleRule(const WeightSpec& spec,
                                                  float tensor_scale) const = 0;
};

// The start of a registry row: what all of these formats provide and require.
// `kind` is "floating", "codebook", "microscaling" or "gguf_block"; `page`
// below docs/formats.
FormatEntry MakeLevelEntry(const std::string& id, const std::string& kind,
                           const std::string& page,
                           std::shared_ptr<const LevelTable> format);

// Scales of a group that have no share in spec.scale_dtype: bits per weight of
// one of `bits` per group.
double GroupShare(int64_t in_features, int64_t group_size, double bits);

}  // namespace quantd::formats
