// SPDX-License-Identifier: Apache-2.0
#include "worker/kernels/operators.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <tuple>

#include "worker/kernels/operators_any.h"
#include "worker/kernels/operators_cpu.h"

namespace quantd::kernels {
namespace {

using ColumnsSchema = void(at::TensorList, const std::optional<at::Tensor>&,
                           at::IntArrayRef);
using RoundSchema = std::tuple<at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor&, int64_t, int64_t, bool, int64_t);
using GramSchema = void(const at::Tensor&, const at::Tensor&);
using FactorSchema = bool(const at::Tensor&, const at::Tensor&);
using LossesSchema = std::tuple<at::Tensor, at::Tensor>(const at::Tensor&,
                                                        const at::Tensor&);
using EnergySchema = double(const at::Tensor&, const at::Tensor&);

template <typename Schema>
c10::TypedOperatorHandle<Schema> Find(const char* name) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow(name, "")
      .typed<Schema>();
}

}  // namespace

TORCH_LIBRARY(quantd, library) {
  library.def(
      "gptq_columns(Tensor(a!)[] state, Tensor? column_group, int[] layout) "
      "-> ()");
  library.def(
      "round_to_nearest(Tensor weight, int group_size, int max_code, "
      "bool symmetric, int scale_type) -> (Tensor, Tensor, Tensor)");
  library.def("gram_add(Tensor(a!) gram, Tensor input) -> ()");
  library.def("feedback_factor(Tensor(a!) matrix, Tensor(b!) pivots) -> bool");
  library.def("gram_energy(Tensor rows, Tensor gram) -> float");
  library.def(
      "token_losses(Tensor logits, Tensor targets) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(quantd, CPU, library) {
  library.impl("gptq_columns", GptqColumnsCpu);
  library.impl("round_to_nearest", RoundToNearestCpu);
  library.impl("gram_add", GramAddCpu);
  library.impl("feedback_factor", FeedbackFactorCpu);
  library.impl("gram_energy", GramEnergyCpu);
  library.impl("token_losses", TokenLossesCpu);
}

TORCH_LIBRARY_IMPL(quantd, CompositeExplicitAutograd, library) {
  library.impl("gram_add", GramAddAny);
  library.impl("feedback_factor", FeedbackFactorAny);
  library.impl("gram_energy", GramEnergyAny);
  library.impl("token_losses", TokenLossesAny);
}

void GptqColumns(const ColumnLoop& loop, int64_t begin, int64_t end) {
  static const auto op = Find<ColumnsSchema>("quantd::gptq_columns");
  std::optional<at::Tensor> column_group;
  if (loop.column_group.defined()) column_group = loop.column_group;
  op.call({loop.corrected, loop.feedback, loop.pivots, loop.codes, loop.scales,
           loop.zeros, loop.loss},
          column_group,
          {loop.rule.max_code, loop.rule.symmetric,
           static_cast<int64_t>(loop.rule.scale_type), loop.group_size,
           loop.block_size, begin, end});
}

ColumnRange UnpackColumnLoop(at::TensorList state,
                             const std::optional<at::Tensor>& column_group,
                             at::IntArrayRef layout) {
  ColumnRange range;
  ColumnLoop& loop = range.loop;
  loop.corrected = state[0];
  loop.feedback = state[1];
  loop.pivots = state[2];
  loop.codes = state[3];
  loop.scales = state[4];
  loop.zeros = state[5];
  loop.loss = state[6];
  if (column_group.has_value()) loop.column_group = *column_group;
  loop.rule.max_code = static_cast<int32_t>(layout[0]);
  loop.rule.symmetric = layout[1] != 0;
  loop.rule.scale_type = static_cast<ScaleType>(layout[2]);
  loop.group_size = layout[3];
  loop.block_size = layout[4];
  range.begin = layout[5];
  range.end = layout[6];
  return range;
}

RoundingOutput RoundToNearest(const at::Tensor& weight, int64_t group_size,
                              const IntegerGridRule& rule) {
  static const auto op = Find<RoundSchema>("quantd::round_to_nearest");
  auto [codes, scales, zeros] =
      op.call(weight, group_size, rule.max_code, rule.symmetric,
              static_cast<int64_t>(rule.scale_type));
  return {codes, scales, zeros};
}

void GramAdd(const at::Tensor& gram, const at::Tensor& input) {
  static const auto op = Find<GramSchema>("quantd::gram_add");
  op.call(gram, input);
}

bool FeedbackFactor(const at::Tensor& matrix, const at::Tensor& pivots) {
  static const auto op = Find<FactorSchema>("quantd::feedback_factor");
  return op.call(matrix, pivots);
}

double GramEnergy(const at::Tensor& rows, const at::Tensor& gram) {
  static const auto op = Find<EnergySchema>("quantd::gram_energy");
  return op.call(rows, gram);
}

TokenLosses LossesOfTokens(const at::Tensor& logits,
                           const at::Tensor& targets) {
  static const auto op = Find<LossesSchema>("quantd::token_losses");
  auto [losses, best] = op.call(logits, targets);
  return {losses, best};
}

}  // namespace quantd::kernels
