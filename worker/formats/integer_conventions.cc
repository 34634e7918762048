// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/integer_conventions.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <vector>

#include "worker/kernels/row_ranges_cpu.h"

namespace quantd::formats {
namespace {

// Floor under ranges (AWQ) and scales (AutoRound).
constexpr float kLeast = 1e-5f;

// The published search (Frantar et al., GPTQ, the quantizer of the reference
// code): 80 ranges from 1 down to 0.21 of the full one.
constexpr int kSteps = 100;
constexpr int kTried = 80;

// Weights that are searched at a time, so that they stay in the cache.
constexpr int64_t kWeightsAtATime = 1 << 16;

float Middle(const kernels::IntegerGridRule& rule) {
  return static_cast<float>((rule.max_code + 1) / 2);
}

// s = max(hi - lo, 1e-5) / (2^bits - 1), z = round(-lo / s). Unlike the
// reference the range holds 0, or a group of one sign would be cut to nothing.
kernels::IntegerGrid LayAwq(float low, float high,
                            const kernels::IntegerGridRule& rule) {
  kernels::IntegerGrid grid;
  if (rule.symmetric) {
    const float a = std::max({-low, high, kLeast});
    grid.scale = kernels::RoundScale(a / (Middle(rule) - 1), rule.scale_type);
    grid.zero = Middle(rule);
    return grid;
  }
  low = std::min(low, 0.0f);
  high = std::max(high, 0.0f);
  const float steps = static_cast<float>(rule.max_code);
  grid.scale = kernels::RoundScale(std::max(high - low, kLeast) / steps,
                                   rule.scale_type);
  grid.zero = std::clamp(nearbyintf(-low / grid.scale), 0.0f, steps);
  return grid;
}

// s = +-a / 2^(bits-1), so that the side of the largest magnitude, the positive
// one where they are equal, ends on code 0.
kernels::IntegerGrid LayFullRange(float low, float high,
                                  const kernels::IntegerGridRule& rule) {
  const float below = std::max(-low, 0.0f);
  const float above = std::max(high, 0.0f);
  const float a = std::max(below, above);
  const float scale = kernels::RoundScale(a / Middle(rule), rule.scale_type);
  const float least = kernels::RoundScale(kLeast, rule.scale_type);
  kernels::IntegerGrid grid;
  grid.scale = std::max(scale, least);
  if (above >= below) grid.scale = -grid.scale;
  grid.zero = Middle(rule);
  return grid;
}

// The smallest and the largest value of each row, float32 [rows] on the CPU.
struct Ends {
  at::Tensor low;
  at::Tensor high;
};

kernels::Rows RowsOf(const at::Tensor& values) {
  return {values.size(0), values.size(1), values.const_data_ptr<float>()};
}

Ends EndsOf(const at::Tensor& values) {
  if (!values.is_cpu()) return {values.amin(1).cpu(), values.amax(1).cpu()};
  const at::Tensor source = values.contiguous();
  const kernels::Rows rows = RowsOf(source);
  const Ends ends = {at::empty({rows.rows}), at::empty({rows.rows})};
  float* low = ends.low.mutable_data_ptr<float>();
  float* high = ends.high.mutable_data_ptr<float>();
  at::parallel_for(0, rows.rows, kernels::RowsPerThread(rows.columns),
                   [&](int64_t first, int64_t last) {
                     kernels::RowRanges(rows.Slice(first, last), low + first,
                                        high + first);
                   });
  return ends;
}

// The grids of ranges that are `part` of [low, high], float32 [rows].
Grid LayGrids(const at::Tensor& low, const at::Tensor& high, float part,
              const IntegerGridOptions& options) {
  Grid grid{at::empty_like(low), at::empty_like(low)};
  const float* from = low.const_data_ptr<float>();
  const float* to = high.const_data_ptr<float>();
  float* scale = grid.scale.mutable_data_ptr<float>();
  float* zero = grid.zero.mutable_data_ptr<float>();
  constexpr int64_t kGrain = 4096;
  at::parallel_for(0, low.size(0), kGrain, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const kernels::IntegerGrid chosen =
          LayGrid(part * from[r], part * to[r], options);
      scale[r] = chosen.scale;
      zero[r] = chosen.zero;
    }
  });
  return grid;
}

float TriedPart(int i) {
  return static_cast<float>(1 - static_cast<double>(i) / kSteps);
}

// The first of the tried grids with the least error, for rows [first, last).
void SearchRows(const at::Tensor& values, const Ends& ends,
                const IntegerGridOptions& options, int64_t first, int64_t last,
                const Grid& grid) {
  const kernels::Rows rows = RowsOf(values);
  kernels::GridChoice choice{.scales = std::vector<float>(kTried),
                             .zeros = std::vector<float>(kTried),
                             .max_code = options.rule.max_code,
                             .norm = static_cast<float>(options.norm)};
  for (int64_t r = first; r < last; ++r) {
    for (int i = 0; i < kTried; ++i) {
      const kernels::IntegerGrid tried =
          LayGrid(TriedPart(i) * ends.low.const_data_ptr<float>()[r],
                  TriedPart(i) * ends.high.const_data_ptr<float>()[r], options);
      choice.scales[i] = tried.scale;
      choice.zeros[i] = tried.zero;
    }
    if (options.importance.defined()) {
      choice.importance = options.importance.const_data_ptr<float>() +
                          r % options.importance.size(0) * rows.columns;
    }
    const int64_t best = kernels::LeastErrorGrid(rows.values + r * rows.columns,
                                                 rows.columns, choice);
    grid.scale.mutable_data_ptr<float>()[r] = choice.scales[best];
    grid.zero.mutable_data_ptr<float>()[r] = choice.zeros[best];
  }
}

Grid SearchOnCpu(const at::Tensor& values, const Ends& ends,
                 const IntegerGridOptions& options) {
  const at::Tensor source = values.contiguous();
  IntegerGridOptions own = options;
  if (own.importance.defined()) own.importance = own.importance.contiguous();
  const Grid grid{at::empty_like(ends.low), at::empty_like(ends.low)};
  // Some tens of microseconds to a row.
  at::parallel_for(0, source.size(0), 8, [&](int64_t first, int64_t last) {
    SearchRows(source, ends, own, first, last, grid);
  });
  return grid;
}

// float64 [rows] on the CPU: what the grids cost each row.
at::Tensor PowerError(const at::Tensor& values, const Grid& grid,
                      const IntegerGridOptions& options) {
  const at::Tensor scale = grid.scale.to(values.device()).unsqueeze(1);
  const at::Tensor zero = grid.zero.to(values.device()).unsqueeze(1);
  const at::Tensor error = values.div(scale)
                               .round_()
                               .add_(zero)
                               .clamp_(0, options.rule.max_code)
                               .sub_(zero)
                               .mul_(scale)
                               .sub_(values)
                               .abs_()
                               .pow_(options.norm);
  if (options.importance.defined()) error.mul_(options.importance);
  return at::sum(error, {1}, /*keepdim=*/false, at::kDouble).cpu();
}

// The first of the tried grids with the least error.
Grid SearchGrids(const at::Tensor& values, const at::Tensor& low,
                 const at::Tensor& high, const IntegerGridOptions& options) {
  Grid best = LayGrids(low, high, 1, options);
  at::Tensor least = PowerError(values, best, options);
  for (int i = 1; i < kTried; ++i) {
    const Grid grid = LayGrids(low, high, TriedPart(i), options);
    const at::Tensor error = PowerError(values, grid, options);
    const at::Tensor better = error.lt(least);
    best.scale = at::where(better, grid.scale, best.scale);
    best.zero = at::where(better, grid.zero, best.zero);
    least = at::where(better, error, least);
  }
  return best;
}

// The importance of rows [begin, begin + count) of all.
at::Tensor ImportanceOf(const at::Tensor& importance, int64_t begin,
                        int64_t count) {
  if (!importance.defined()) return {};
  const at::Tensor group =
      at::arange(begin, begin + count, importance.options().dtype(at::kLong))
          .remainder(importance.size(0));
  return importance.index_select(0, group);
}

}  // namespace

bool TakesZeroPoints(GridConvention convention) {
  return convention == GridConvention::kGptq ||
         convention == GridConvention::kAwq;
}

kernels::IntegerGrid LayGrid(float low, float high,
                             const IntegerGridOptions& options) {
  switch (options.convention) {
    case GridConvention::kGptq:
      return kernels::ChooseIntegerGrid(low, high, options.rule);
    case GridConvention::kFullRange:
      return LayFullRange(low, high, options.rule);
    case GridConvention::kAwq:
    case GridConvention::kSymmetric:
      break;
  }
  return LayAwq(low, high, options.rule);
}

at::Tensor RoundToIntegers(const at::Tensor& values, const Grid& grid,
                           int32_t max_code) {
  const at::Tensor source = values.contiguous();
  const at::Tensor scales = grid.scale.to(at::kFloat).contiguous();
  const at::Tensor zeros = grid.zero.to(at::kFloat).contiguous();
  const at::Tensor codes = at::empty_like(source, at::kByte);
  const kernels::Rows rows = RowsOf(source);
  const float* scale = scales.const_data_ptr<float>();
  const float* zero = zeros.const_data_ptr<float>();
  uint8_t* to = codes.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, rows.rows, kernels::RowsPerThread(rows.columns),
                   [&](int64_t first, int64_t last) {
                     kernels::RoundToGrids(rows.Slice(first, last),
                                           scale + first, zero + first,
                                           max_code, to + first * rows.columns);
                   });
  return codes;
}

Grid ChooseIntegerGrids(const at::Tensor& values,
                        const IntegerGridOptions& options) {
  const Ends ends = EndsOf(values);
  if (!options.clip) return LayGrids(ends.low, ends.high, 1, options);
  if (values.is_cpu()) return SearchOnCpu(values, ends, options);
  Grid grid{at::empty_like(ends.low), at::empty_like(ends.low)};
  const int64_t rows = values.size(0);
  const int64_t step = std::max<int64_t>(1, kWeightsAtATime / values.size(1));
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = std::min(step, rows - begin);
    IntegerGridOptions own = options;
    own.importance = ImportanceOf(options.importance, begin, count);
    const Grid part = SearchGrids(values.narrow(0, begin, count),
                                  ends.low.narrow(0, begin, count),
                                  ends.high.narrow(0, begin, count), own);
    grid.scale.narrow(0, begin, count).copy_(part.scale);
    grid.zero.narrow(0, begin, count).copy_(part.zero);
  }
  return grid;
}

}  // namespace quantd::formats
