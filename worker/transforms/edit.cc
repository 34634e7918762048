// SPDX-License-Identifier: Apache-2.0
#include "worker/transforms/edit.h"

#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "worker/numerics/hadamard.h"

namespace quantd::transforms {
namespace {

// `rows` [n, columns] times Q.
at::Tensor RotateColumns(const at::Tensor& rows, const at::Tensor& signs) {
  const int64_t order = signs.size(1);
  const at::Tensor signed_rows = rows.view({rows.size(0), -1, order})
                                     .mul(signs.to(at::kDouble))
                                     .view(rows.sizes());
  return numerics::TimesHadamard(signed_rows, order)
      .mul_(1 / std::sqrt(static_cast<double>(order)));
}

at::Tensor RotateRows(const at::Tensor& values, const at::Tensor& signs) {
  if (values.dim() == 1) {
    return RotateColumns(values.unsqueeze(0), signs).squeeze(0);
  }
  return RotateColumns(values.t().contiguous(), signs).t().contiguous();
}

at::Tensor ClampGroups(const Edit& edit, const at::Tensor& values,
                       int64_t first_row) {
  const at::Tensor limit = edit.operand.narrow(0, first_row, values.size(0))
                               .to(at::kDouble)
                               .repeat_interleave(edit.group_size, 1)
                               .narrow(1, 0, values.size(1));
  return at::maximum(at::minimum(values, limit), limit.neg());
}

bool IsMatrixOperand(EditKind kind) {
  return kind == EditKind::kRotateColumns || kind == EditKind::kRotateRows ||
         kind == EditKind::kClampGroups;
}

bool FitsRotation(const at::Tensor& signs, int64_t length) {
  const int64_t order = signs.size(1);
  return numerics::HasHadamard(order) && length % order == 0 &&
         (signs.size(0) == 1 || signs.size(0) == length / order);
}

bool Fits(const Edit& edit, at::IntArrayRef shape) {
  const at::Tensor& operand = edit.operand;
  const bool vector = shape.size() == 1;
  if (!operand.defined() || !at::isFloatingType(operand.scalar_type()) ||
      shape.empty() || shape.size() > 2) {
    return false;
  }
  if (edit.kind == EditKind::kReplace) return operand.sizes() == shape;
  if (operand.dim() != (IsMatrixOperand(edit.kind) ? 2 : 1) ||
      operand.numel() == 0) {
    return false;
  }
  switch (edit.kind) {
    case EditKind::kDivideRows:
      return operand.size(0) == shape.front();
    case EditKind::kMultiplyColumns:
      return !vector && operand.size(0) == shape.back();
    case EditKind::kRotateColumns:
      return !vector && FitsRotation(operand, shape.back());
    case EditKind::kRotateRows:
      return FitsRotation(operand, shape.front());
    default:
      return !vector && edit.group_size > 0 &&
             operand.size(0) == shape.front() &&
             operand.size(1) ==
                 (shape.back() + edit.group_size - 1) / edit.group_size;
  }
}

}  // namespace

bool IsRowWise(EditKind kind) {
  return kind != EditKind::kRotateRows && kind != EditKind::kReplace;
}

at::Tensor ApplyEdit(const Edit& edit, const at::Tensor& values,
                     int64_t first_row) {
  switch (edit.kind) {
    case EditKind::kDivideRows: {
      at::Tensor divisor = edit.operand.narrow(0, first_row, values.size(0));
      if (values.dim() == 2) divisor = divisor.unsqueeze(1);
      return values.div(divisor.to(at::kDouble));
    }
    case EditKind::kMultiplyColumns:
      return values.mul(edit.operand.to(at::kDouble));
    case EditKind::kRotateColumns:
      return RotateColumns(values, edit.operand);
    case EditKind::kRotateRows:
      return RotateRows(values, edit.operand);
    case EditKind::kClampGroups:
      return ClampGroups(edit, values, first_row);
    case EditKind::kReplace:
      return edit.operand.to(at::kDouble);
  }
  return values;
}

absl::Status CheckEdit(const Edit& edit, at::IntArrayRef shape) {
  if (Fits(edit, shape)) return absl::OkStatus();
  return base::MakeError(absl::StatusCode::kInternal, "EDIT_SHAPE",
                         absl::StrCat("a transform's change of \"", edit.tensor,
                                      "\" does not fit the tensor's shape"),
                         {{"tensor", edit.tensor}});
}

}  // namespace quantd::transforms
