// SPDX-License-Identifier: Apache-2.0
// The GPTQ column loop for number formats whose codes stand for a table of
// levels. Plain beside columns_cpu.h: rows are threads, nothing is transposed.
#pragma once

#include <cstdint>

#include "worker/kernels/level_grid.h"
#include "worker/kernels/operators.h"

namespace quantd::kernels {

// GptqColumns, where a value is rounded to the nearest of `levels` times its
// group's scale. Grids are given beforehand: column_group and scales are
// defined; zeros and rule are not read. All tensors are on the CPU. Sums are
// taken in an order that does not depend on the number of threads.
void GptqLevelColumns(const ColumnLoop& loop, const LevelGridRule& levels,
                      int64_t begin, int64_t end);

}  // namespace quantd::kernels
