// SPDX-License-Identifier: Apache-2.0
// One change of one float tensor, as data: transforms make lists of them, steps
// keep them, and an EditedReader applies them wherever the tensor is read.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quantd::transforms {

enum class EditKind {
  // Row r (or entry r of a vector) divided by operand[r].
  kDivideRows,
  // Column c (the last dimension) multiplied by operand[c].
  kMultiplyColumns,
  // Each run of k columns multiplied by Q = diag(signs) H / sqrt(k), H the
  // Hadamard matrix of order k. Operand: signs, [runs, k], or [1, k] for all
  // runs.
  kRotateColumns,
  // Each run of k rows, or entries of a vector, multiplied by Q^T from the
  // left.
  kRotateRows,
  // |entry| at most operand[r, group of the column], groups of equal width, the
  // last of which may be short; [rows, groups].
  kClampGroups,
  // Becomes the operand.
  kReplace,
};

struct Edit {
  // Name of the tensor.
  std::string tensor;
  EditKind kind = EditKind::kReplace;
  // Floating point, on the CPU.
  at::Tensor operand;
  // Columns per group, for kClampGroups alone.
  int64_t group_size = 0;
};

// True where a row of the result needs that row of the tensor alone.
bool IsRowWise(EditKind kind);

// `values` float64, a vector or a matrix; of a matrix, a row-wise edit takes
// rows [first_row, first_row + values.size(0)).
at::Tensor ApplyEdit(const Edit& edit, const at::Tensor& values,
                     int64_t first_row = 0);

// OK where the edit can be applied to a tensor of this shape; INTERNAL,
// EDIT_SHAPE.
absl::Status CheckEdit(const Edit& edit, at::IntArrayRef shape);

// The same edits give the same bytes.
absl::Status WriteEdits(const std::string& path,
                        const std::vector<Edit>& edits);
// DATA_LOSS, STEP_FILE_DAMAGED, where the file is not one of ours.
absl::StatusOr<std::vector<Edit>> ReadEdits(const std::string& path);

}  // namespace quantd::transforms
