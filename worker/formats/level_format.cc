// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/level_format.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/kernels/row_ranges_cpu.h"

namespace quantd::formats {
namespace {

// The least float that is rounded to `above` and not to `below`.
float Boundary(const Level& below, const Level& above, Ties ties) {
  // -0 and +0: signs are kept.
  const bool zeros = below.value == above.value;
  if (zeros && ties == Ties::kToEvenCode) return above.value;
  const float middle =
      static_cast<float>((static_cast<double>(below.value) + above.value) / 2);
  const bool up = (ties == Ties::kToEvenCode && above.code % 2 == 0) ||
                  ties == Ties::kUp ||
                  (ties == Ties::kOutward && above.value > 0);
  return up ? middle
            : std::nextafterf(middle, std::numeric_limits<float>::infinity());
}

}  // namespace

kernels::LevelGridRule MakeLevelRule(const std::vector<Level>& levels,
                                     Ties ties) {
  kernels::LevelGridRule rule;
  std::fill(std::begin(rule.levels), std::end(rule.levels),
            std::numeric_limits<float>::quiet_NaN());
  rule.size = static_cast<int32_t>(levels.size());
  for (size_t i = 0; i < levels.size(); ++i) {
    rule.codes[i] = levels[i].code;
    rule.levels[levels[i].code] = levels[i].value;
    rule.keys[i] =
        i == 0 ? std::numeric_limits<int32_t>::min()
               : kernels::OrderedKey(Boundary(levels[i - 1], levels[i], ties));
  }
  return rule;
}

std::vector<Level> FloatLevels(int exponent_bits, int mantissa_bits, int bias,
                               float largest) {
  std::vector<Level> positive;
  const int magnitudes = 1 << (exponent_bits + mantissa_bits);
  for (int code = 0; code < magnitudes; ++code) {
    const int exponent = code >> mantissa_bits;
    const int mantissa = code & ((1 << mantissa_bits) - 1);
    const float value =
        exponent == 0
            ? std::ldexp(static_cast<float>(mantissa), 1 - bias - mantissa_bits)
            : std::ldexp(static_cast<float>(mantissa + (1 << mantissa_bits)),
                         exponent - bias - mantissa_bits);
    if (value <= largest) {
      positive.push_back({value, static_cast<uint8_t>(code)});
    }
  }
  std::vector<Level> levels;
  for (auto it = positive.rbegin(); it != positive.rend(); ++it) {
    levels.push_back({-it->value, static_cast<uint8_t>(it->code + magnitudes)});
  }
  levels.insert(levels.end(), positive.begin(), positive.end());
  return levels;
}

kernels::LevelLookup MakeFloatTable(int exponent_bits, int mantissa_bits,
                                    int bias, float largest) {
  kernels::LevelLookup table;
  table.rule =
      MakeLevelRule(FloatLevels(exponent_bits, mantissa_bits, bias, largest),
                    Ties::kToEvenCode);
  table.spacing = {.kind = kernels::LevelSpacing::Kind::kFloat,
                   .largest = largest,
                   .exponent_bits = exponent_bits,
                   .mantissa_bits = mantissa_bits,
                   .least_exponent = 1 - bias};
  return table;
}

at::Tensor LargestMagnitudes(const at::Tensor& rows) {
  if (!rows.is_cpu()) {
    return at::maximum(rows.amax(1), rows.amin(1).neg()).cpu();
  }
  const at::Tensor source = rows.contiguous();
  const kernels::Rows all = {source.size(0), source.size(1),
                             source.const_data_ptr<float>()};
  const at::Tensor largest = at::empty({all.rows});
  float* to = largest.mutable_data_ptr<float>();
  at::parallel_for(0, all.rows, kernels::RowsPerThread(all.columns),
                   [&](int64_t first, int64_t last) {
                     kernels::RowMagnitudes(all.Slice(first, last), to + first);
                   });
  return largest;
}

LevelTable::LevelTable(int bits, const kernels::LevelLookup& table,
                       int64_t fixed_group_size)
    : bits_(bits), table_(table), fixed_group_size_(fixed_group_size) {
  levels_ = at::full({int64_t{1} << bits},
                     std::numeric_limits<double>::quiet_NaN(), at::kFloat);
  for (int32_t i = 0; i < table_.rule.size; ++i) {
    const uint8_t code = table_.rule.codes[i];
    levels_.data_ptr<float>()[code] = table_.rule.levels[code];
    largest_ = std::max(largest_, table_.rule.levels[code]);
  }
}

absl::Status LevelTable::CheckLayout(const WeightSpec& spec) const {
  if (!spec.symmetric) {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "ASYMMETRIC_FORMAT",
        absl::StrCat(spec.format,
                     " has no zero points; use symmetric weights, or an "
                     "integer format"));
  }
  if (fixed_group_size_ != 0 && spec.group_size != fixed_group_size_) {
    return base::MakeError(absl::StatusCode::kInvalidArgument,
                           "GROUP_SIZE_FIXED",
                           absl::StrCat(spec.format, " has groups of ",
                                        fixed_group_size_, " and no others"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Grid> LevelFormat::ChooseGrid(const at::Tensor& values,
                                             const WeightSpec& spec,
                                             float tensor_scale) const {
  ASSIGN_OR_RETURN(const ScaleRule rule, MakeScaleRule(spec, tensor_scale));
  Grid grid;
  grid.scale = LargestMagnitudes(values);
  float* scales = grid.scale.mutable_data_ptr<float>();
  const int64_t count = grid.scale.numel();
  if (!std::all_of(scales, scales + count,
                   [](float amax) { return std::isfinite(amax); })) {
    return CheckWeight(values);
  }
  constexpr int64_t kGrain = 2048;
  at::parallel_for(0, count, kGrain, [&](int64_t first, int64_t last) {
    rule(scales + first, last - first);
  });
  return grid;
}

at::Tensor LevelTable::Nearest(const at::Tensor& values,
                               const Grid& grid) const {
  const at::Tensor source = values.cpu().contiguous();
  const at::Tensor scales = grid.scale.cpu().contiguous();
  at::Tensor codes = at::empty_like(source, at::kByte);
  const float* from = source.const_data_ptr<float>();
  const float* scale = scales.const_data_ptr<float>();
  uint8_t* to = codes.mutable_data_ptr<uint8_t>();
  const int64_t columns = source.size(1);
  at::parallel_for(0, source.size(0), kernels::RowsPerThread(columns),
                   [&](int64_t first, int64_t last) {
                     kernels::RoundToLevels(
                         from + first * columns, last - first, columns,
                         scale + first, table_, to + first * columns);
                   });
  return codes.to(values.device());
}

FormatEntry MakeLevelEntry(const std::string& id, const std::string& kind,
                           const std::string& page,
                           std::shared_ptr<const LevelTable> format) {
  FormatEntry entry;
  v1::ComponentEntry& description = entry.description;
  description.set_seam(v1::SEAM_FORMAT);
  description.set_id(id);
  description.set_reference(absl::StrCat("docs/formats/", page, ".md"));
  description.add_provides(kind);
  description.add_provides(absl::StrCat("bits=", format->bits()));
  if (format->fixed_group_size() != 0) {
    description.add_provides(
        absl::StrCat("group_size=", format->fixed_group_size()));
  }
  v1::Requirement* symmetric = description.add_requirements();
  symmetric->set_seam(v1::SEAM_FORMAT);
  symmetric->set_property("symmetric");
  symmetric->set_why("its levels stand around 0, and it has no zero points");
  symmetric->set_suggestion("use symmetric weights, or an integer format");
  entry.format = std::move(format);
  return entry;
}

double GroupShare(int64_t in_features, int64_t group_size, double bits) {
  const int64_t group = std::min(group_size, in_features);
  const int64_t groups = (in_features + group - 1) / group;
  return static_cast<double>(groups) * bits / static_cast<double>(in_features);
}

}  // namespace quantd::formats
