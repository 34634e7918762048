// SPDX-License-Identifier: Apache-2.0
// The fused loops as operators of LibTorch's dispatcher: one call for every
// device. The CPU kernels are registered here; the CUDA plugin registers its
// own under the same names when it is loaded.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <optional>

#include "worker/kernels/integer_grid.h"

namespace quantd::kernels {

// The state of the GPTQ column loop over one layer. All tensors are contiguous
// and on one device; columns are in the order in which they are quantized.
//
// With H^-1 = U^T U and F_ij = -U_ij / U_ii, rounding column i changes every
// later column by
//   v_j += (v_i - w^_i) F_ij,   w^_i = grid(v_i)
// so that at any time the columns not yet rounded are the best answer to those
// that are: grids of groups are chosen from such values.
struct ColumnLoop {
  at::Tensor corrected;  // float32 [out, in]: v; starts as a copy of w.
  at::Tensor feedback;   // float32 [in, in]: F; only the strict upper triangle
                         // is read.
  at::Tensor pivots;     // float32 [in]: U_jj^-2, for the loss alone.
  at::Tensor codes;      // uint8 [out, in], written.
  // float32 and uint8 [out, groups]: written at each group's first column, or
  // read where column_group is defined.
  at::Tensor scales;
  at::Tensor zeros;
  // int32 [in]: the group of each column, where all grids are chosen
  // beforehand; undefined where column j belongs to group j / group_size.
  at::Tensor column_group;
  at::Tensor loss;  // float32 [out]: += 1/2 sum_j pivots_j (v_j - w^_j)^2.
  IntegerGridRule rule;
  int64_t group_size = 128;  // 1 .. in.
  int64_t block_size = 128;  // Columns per lazily applied block.
};

// Quantizes columns [begin, end) of every row and applies their feedback to all
// later columns of `corrected`. Call it over consecutive ranges, each ending at
// BlockEnd(begin, in, width, column_group defined ? 0 : group_size).
// Operator: quantd::gptq_columns.
void GptqColumns(const ColumnLoop& loop, int64_t begin, int64_t end);

// What a kernel of quantd::gptq_columns gets: its schema is
//   (Tensor(a!)[] state, Tensor? column_group, int[] layout) -> ()
// and this takes it apart again.
struct ColumnRange {
  ColumnLoop loop;
  int64_t begin = 0;
  int64_t end = 0;
};
ColumnRange UnpackColumnLoop(at::TensorList state,
                             const std::optional<at::Tensor>& column_group,
                             at::IntArrayRef layout);

// Chooses the grid of every group of `group_size` columns (the last may be
// short) and rounds to it. `weight` float32 [out, in], contiguous and finite;
// `codes` uint8 [out, in]; `scales` float32 and `zeros` uint8 [out, groups].
// Operator: quantd::round_to_nearest
//   (Tensor weight, int group_size, int max_code, bool symmetric,
//    int scale_type) -> (Tensor, Tensor, Tensor)
struct RoundingOutput {
  at::Tensor codes;
  at::Tensor scales;
  at::Tensor zeros;
};
RoundingOutput RoundToNearest(const at::Tensor& weight, int64_t group_size,
                              const IntegerGridRule& rule);

// gram[upper triangle] += input^T input, in float32 and a fixed order. `gram`
// float32 [in, in]; `input` float32 [tokens, in]. What lies below the diagonal
// of `gram` is unspecified afterwards.
// Operator: quantd::gram_add(Tensor(a!) gram, Tensor input) -> ()
void GramAdd(const at::Tensor& gram, const at::Tensor& input);

// With H = M diag(pivots) M^T, M unit upper triangular: replaces the upper
// triangle of `matrix`, float32 [in, in] and contiguous, from that of H to that
// of F = -M^-1, and writes `pivots`, float32 [in]. The strict lower triangle is
// neither read nor changed. False where H is not positive definite in float32;
// the upper triangle is then lost.
// Operator: quantd::feedback_factor
//   (Tensor(a!) matrix, Tensor(b!) pivots) -> bool
bool FeedbackFactor(const at::Tensor& matrix, const at::Tensor& pivots);

// tr(A G A^T) for `rows` A, float32 [out, in], and `gram` G, float32 [in, in]
// and symmetric. Products in float32, their sum in float64.
// Operator: quantd::gram_energy(Tensor rows, Tensor gram) -> float
double GramEnergy(const at::Tensor& rows, const at::Tensor& gram);

struct TokenLosses {
  // float64 [rows]: -log softmax of the target; NaN where a logit of the row is
  // not finite.
  at::Tensor losses;
  // int64 [rows]: the largest logit, the first of equal ones.
  at::Tensor best;
};
// `logits` float32 [rows, vocabulary], contiguous; `targets` int64 [rows]. exp
// in float32, its sum in float64.
// Operator: quantd::token_losses(Tensor logits, Tensor targets)
//   -> (Tensor, Tensor)
TokenLosses LossesOfTokens(const at::Tensor& logits, const at::Tensor& targets);

}  // namespace quantd::kernels
