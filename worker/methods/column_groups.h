// SPDX-License-Identifier: Apache-2.0
// Columns of a matrix in groups, the last of which may be short.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace quantd::methods {

// Immutable.
class ColumnGroups {
 public:
  // Groups of `size` among `columns`, both at least 1.
  ColumnGroups(int64_t columns, int64_t size);

  // [rows, groups] to [rows, columns]: every column gets its group's value.
  at::Tensor Spread(const at::Tensor& per_group) const;
  // [rows, columns] to [rows, groups].
  at::Tensor Sum(const at::Tensor& values) const;
  // The least and the largest of a group, 0 among them.
  at::Tensor MinWithZero(const at::Tensor& values) const;
  at::Tensor MaxWithZero(const at::Tensor& values) const;

 private:
  // [rows, groups, size], zeros behind the last column.
  at::Tensor Split(const at::Tensor& values) const;

  const int64_t columns_;
  const int64_t size_;
  const int64_t count_;
};

}  // namespace quantd::methods
