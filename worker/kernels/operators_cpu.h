// SPDX-License-Identifier: Apache-2.0
// The functions that operators.cc registers for the CPU; call them through
// operators.h.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace quantd::kernels {

void GptqColumnsCpu(at::TensorList state,
                    const std::optional<at::Tensor>& column_group,
                    at::IntArrayRef layout);

std::tuple<at::Tensor, at::Tensor, at::Tensor> RoundToNearestCpu(
    const at::Tensor& weight, int64_t group_size, int64_t max_code,
    bool symmetric, int64_t scale_type);

void GramAddCpu(const at::Tensor& gram, const at::Tensor& input);

bool FeedbackFactorCpu(const at::Tensor& matrix, const at::Tensor& pivots);

double GramEnergyCpu(const at::Tensor& rows, const at::Tensor& gram);

std::tuple<at::Tensor, at::Tensor> TokenLossesCpu(const at::Tensor& logits,
                                                  const at::Tensor& targets);

}  // namespace quantd::kernels
