// SPDX-License-Identifier: Apache-2.0
// How the columns of a layer are cut into blocks whose feedback is applied
// lazily.
#pragma once

#include <cstdint>

#include "worker/kernels/integer_grid.h"

namespace quantd::kernels {

// The end of the block of at most `width` columns that starts at `begin`,
// inside the enclosing block that ends at `limit`. A group's grid is chosen
// from corrected weights when the loop reaches its first column, so every
// column of it must be up to date by then: a group that starts inside a block
// must end in it, and the block is cut before one that would not. `group_size`
// 0 means that grids are given beforehand.
QUANTD_HOST_DEVICE inline int64_t BlockEnd(int64_t begin, int64_t limit,
                                           int64_t width, int64_t group_size) {
  const int64_t end = begin + width < limit ? begin + width : limit;
  if (end == limit || group_size <= 0) return end;
  const int64_t group_start = (end - 1) / group_size * group_size;
  const bool cut = group_start > begin && group_start + group_size > end;
  return cut ? group_start : end;
}

}  // namespace quantd::kernels
