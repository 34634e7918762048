// SPDX-License-Identifier: Apache-2.0
// The published ways to lay an integer grid over a group's range, beside the
// one of worker/kernels/integer_grid.h, and clipping. docs/formats/int.md has
// them in words.
#pragma once

#include <ATen/core/Tensor.h>

#include "worker/formats/format.h"
#include "worker/kernels/integer_grid.h"

namespace quantd::formats {

enum class GridConvention {
  kGptq,       // kernels::ChooseIntegerGrid.
  kAwq,        // Symmetric: [-a, a] on 2^bits - 1 codes around the middle.
  kFullRange,  // Symmetric: the larger side on code 0; the scale has a sign.
  kSymmetric,  // As kAwq, and no zero points.
};

// False where the grid is symmetric whatever the recipe says.
bool TakesZeroPoints(GridConvention convention);

struct IntegerGridOptions {
  GridConvention convention = GridConvention::kGptq;
  // Ranges are shrunk to where the sum of |w^ - w|^norm, each times what its
  // feature counts, is least.
  bool clip = false;
  double norm = 2.4;
  // As of Format::ChooseGrid.
  at::Tensor importance = {};
  kernels::IntegerGridRule rule;
  // What kernels::RoundToNearest and the GPTQ loop do by themselves.
  bool plain = true;
};

// The grid of a group whose values lie in [low, high], both finite.
kernels::IntegerGrid LayGrid(float low, float high,
                             const IntegerGridOptions& options);

// uint8 [rows, group]: the codes nearest to `values`, float32 [rows, group],
// on the grids of their rows. All on the CPU.
at::Tensor RoundToIntegers(const at::Tensor& values, const Grid& grid,
                           int32_t max_code);

// The grid of each row of `values`, float32 [rows, group] and finite; on the
// CPU.
Grid ChooseIntegerGrids(const at::Tensor& values,
                        const IntegerGridOptions& options);

}  // namespace quantd::formats
