// SPDX-License-Identifier: Apache-2.0
#include "worker/methods/column_groups.h"

#include <ATen/ops/constant_pad_nd.h>

namespace quantd::methods {

ColumnGroups::ColumnGroups(int64_t columns, int64_t size)
    : columns_(columns), size_(size), count_((columns + size - 1) / size) {}

at::Tensor ColumnGroups::Spread(const at::Tensor& per_group) const {
  const int64_t rows = per_group.size(0);
  return per_group.unsqueeze(2)
      .expand({rows, count_, size_})
      .reshape({rows, count_ * size_})
      .narrow(1, 0, columns_);
}

at::Tensor ColumnGroups::Split(const at::Tensor& values) const {
  const int64_t missing = count_ * size_ - columns_;
  const at::Tensor whole =
      missing == 0 ? values : at::constant_pad_nd(values, {0, missing}, 0);
  return whole.reshape({values.size(0), count_, size_});
}

at::Tensor ColumnGroups::Sum(const at::Tensor& values) const {
  return Split(values).sum(2);
}

at::Tensor ColumnGroups::MinWithZero(const at::Tensor& values) const {
  return Split(values).amin(2).clamp_max_(0);
}

at::Tensor ColumnGroups::MaxWithZero(const at::Tensor& values) const {
  return Split(values).amax(2).clamp_min_(0);
}

}  // namespace quantd::methods
