// SPDX-License-Identifier: Apache-2.0
// Blocks of GGUF files as number formats: those with one float16 scale for a
// block, and a minimum for some (ggml, src/ggml-quants.c, the reference
// quantizers). One row per type; the rules in words are in
// docs/formats/ggml.md.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "proto/base/status_macros.h"
#include "worker/formats/format.h"
#include "worker/formats/level_format.h"

namespace quantd::formats {
namespace {

constexpr double kHalfBits = 16;
constexpr float kLargestHalf = 65504;
// Weights between two looks at the cancel token.
constexpr int64_t kWeightsAtATime = int64_t{1} << 19;

// What a block's scale is chosen by.
enum class Reach {
  kSigned,     // The value of the largest magnitude stands on code 0.
  kMagnitude,  // The largest magnitude stands on the last level.
  kRange,      // The least value is kept, and stands on code 0.
};

struct BlockType {
  const char* id = "";
  int bits = 0;
  int64_t block = 32;
  Reach reach = Reach::kSigned;
  // Levels between 0, or the least value, and the end of the block's reach.
  int steps = 0;
  // The code of the level 0.
  int zero_code = 0;
  const char* words = "";

  bool has_offset() const { return reach == Reach::kRange; }
  uint8_t CodeOf(int level) const {
    return static_cast<uint8_t>((level + zero_code) & ((1 << bits) - 1));
  }
};

kernels::LevelGridRule RuleOf(const BlockType& type) {
  const int least = type.has_offset() ? 0 : -type.steps;
  const int last = type.reach == Reach::kSigned ? type.steps - 1 : type.steps;
  std::vector<Level> levels;
  for (int level = least; level <= last; ++level) {
    levels.push_back({static_cast<float>(level), type.CodeOf(level)});
  }
  kernels::LevelGridRule rule = MakeLevelRule(
      levels, type.reach == Reach::kMagnitude ? Ties::kOutward : Ties::kUp);
  rule.reciprocal = true;
  return rule;
}

// float16 and back; what is beyond it becomes its largest number.
float AsStored(float value) {
  return c10::Half(std::clamp(value, -kLargestHalf, kLargestHalf));
}

// What a block stores, and what its codes are computed from: the same before it
// was rounded, as long as float16 can hold it.
struct BlockGrid {
  float scale = 0;
  float offset = 0;
  float inverse = 0;
  float base = 0;
};

BlockGrid GridOf(const BlockType& type, const float* values, int64_t count) {
  const auto [low, high] = std::minmax_element(values, values + count);
  const float steps = static_cast<float>(type.steps);
  float scale = 0;
  BlockGrid grid;
  if (type.has_offset()) {
    scale = (*high - *low) / steps;
    grid.offset = AsStored(*low);
    grid.base = std::abs(*low) > kLargestHalf ? grid.offset : *low;
  } else if (type.reach == Reach::kMagnitude) {
    scale = std::max(std::abs(*low), std::abs(*high)) / steps;
  } else {
    // The first of the largest magnitude.
    const float* peak = std::max_element(
        values, values + count,
        [](float a, float b) { return std::abs(a) < std::abs(b); });
    scale = *peak / -steps;
  }
  grid.scale = AsStored(scale);
  if (std::abs(scale) > kLargestHalf) scale = grid.scale;
  const float inverse = 1.0f / scale;
  // A scale of 0, or one that float16 makes 0.
  grid.inverse = std::isfinite(inverse) ? inverse : 0;
  return grid;
}

// Halves are rounded as ggml rounds them: by a sum that is cut, which float32
// rounds too, or away from zero.
uint8_t CodeOf(const BlockType& type, float value, const BlockGrid& grid) {
  const float units = (value - grid.base) * grid.inverse;
  const float steps = static_cast<float>(type.steps);
  if (type.reach == Reach::kMagnitude) {
    return type.CodeOf(
        static_cast<int>(std::clamp(std::round(units), -steps, steps)));
  }
  const float place = units + (static_cast<float>(type.zero_code) + 0.5f);
  const float last = static_cast<float>((1 << type.bits) - 1);
  return static_cast<uint8_t>(std::clamp(place, 0.0f, last));
}

class GgmlFormat : public LevelTable {
 public:
  explicit GgmlFormat(const BlockType& type)
      : LevelTable(type.bits, {.rule = RuleOf(type)}, type.block),
        type_(type) {}

  double BitsPerWeight(const WeightSpec&, int64_t in_features) const override {
    return bits() + GroupShare(in_features, type_.block,
                               type_.has_offset() ? 2 * kHalfBits : kHalfBits);
  }

  absl::StatusOr<Grid> ChooseGrid(const at::Tensor& values, const WeightSpec&,
                                  float) const override {
    RETURN_IF_ERROR(CheckWeight(values));
    const at::Tensor source = values.cpu().contiguous();
    const int64_t rows = source.size(0);
    const int64_t columns = source.size(1);
    Grid grid{.scale = at::empty({rows}, at::kFloat)};
    if (type_.has_offset()) grid.offset = at::empty({rows}, at::kFloat);
    for (int64_t r = 0; r < rows; ++r) {
      const BlockGrid block =
          GridOf(type_, source.const_data_ptr<float>() + r * columns, columns);
      grid.scale.mutable_data_ptr<float>()[r] = block.scale;
      if (type_.has_offset()) {
        grid.offset.mutable_data_ptr<float>()[r] = block.offset;
      }
    }
    return grid;
  }

  at::Tensor Nearest(const at::Tensor& values,
                     const Grid& grid) const override {
    if (!grid.offset.defined()) return LevelTable::Nearest(values, grid);
    return LevelTable::Nearest(
        values.sub(grid.offset.to(values.device()).unsqueeze(1)), grid);
  }

  // Codes come from scales and minima before those are rounded, as ggml has it.
  absl::StatusOr<QuantizedLinear> RoundToNearest(
      const at::Tensor& weight, const WeightSpec& spec,
      const base::CancelToken& cancel) const override {
    ASSIGN_OR_RETURN(QuantizedLinear linear, ChooseGrids(weight, spec, cancel));
    const at::Tensor source = weight.cpu().contiguous();
    linear.codes = at::empty_like(source, at::kByte);
    const float* from = source.const_data_ptr<float>();
    uint8_t* to = linear.codes.mutable_data_ptr<uint8_t>();
    const int64_t columns = source.size(1);
    const int64_t rows = source.size(0);
    const int64_t step = std::max<int64_t>(1, kWeightsAtATime / columns);
    for (int64_t first = 0; first < rows; first += step) {
      RETURN_IF_ERROR(cancel.Check());
      at::parallel_for(first, std::min(first + step, rows), 1,
                       [&](int64_t begin, int64_t end) {
                         for (int64_t r = begin; r < end; ++r) {
                           RoundRow(from + r * columns, columns,
                                    to + r * columns);
                         }
                       });
    }
    return linear;
  }

 private:
  void RoundRow(const float* values, int64_t columns, uint8_t* codes) const {
    for (int64_t begin = 0; begin < columns; begin += type_.block) {
      const int64_t end = std::min(begin + type_.block, columns);
      const BlockGrid grid = GridOf(type_, values + begin, end - begin);
      for (int64_t c = begin; c < end; ++c) {
        codes[c] = CodeOf(type_, values[c], grid);
      }
    }
  }

  const BlockType type_;
};

FormatEntry MakeEntry(const BlockType& type) {
  FormatEntry entry = MakeLevelEntry(type.id, "gguf_block", "ggml",
                                     std::make_shared<GgmlFormat>(type));
  entry.description.set_summary(type.words);
  entry.description.add_provides("unrounded_scale");
  if (type.has_offset()) {
    entry.description.add_provides("inexact_zero");
    entry.description.mutable_requirements(0)->set_why(
        "its blocks have a minimum in place of zero points");
  }
  return entry;
}

}  // namespace

FormatEntry Q4_0() {
  return MakeEntry(
      {"q4_0", 4, 32, Reach::kSigned, 8, 8,
       "GGUF's Q4_0: blocks of 32 4-bit integers with a signed scale."});
}
FormatEntry Q4_1() {
  return MakeEntry(
      {"q4_1", 4, 32, Reach::kRange, 15, 0,
       "GGUF's Q4_1: blocks of 32 4-bit integers with a scale and a minimum."});
}
FormatEntry Q5_0() {
  return MakeEntry(
      {"q5_0", 5, 32, Reach::kSigned, 16, 16,
       "GGUF's Q5_0: blocks of 32 5-bit integers with a signed scale."});
}
FormatEntry Q5_1() {
  return MakeEntry(
      {"q5_1", 5, 32, Reach::kRange, 31, 0,
       "GGUF's Q5_1: blocks of 32 5-bit integers with a scale and a minimum."});
}
FormatEntry Q8_0() {
  return MakeEntry({"q8_0", 8, 32, Reach::kMagnitude, 127, 0,
                    "GGUF's Q8_0: blocks of 32 8-bit integers with a scale."});
}
FormatEntry Tq2_0() {
  return MakeEntry(
      {"tq2_0", 2, 256, Reach::kMagnitude, 1, 1,
       "GGUF's TQ2_0: blocks of 256 values of -1, 0 and 1 with a scale."});
}

}  // namespace quantd::formats
