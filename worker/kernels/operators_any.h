// SPDX-License-Identifier: Apache-2.0
// The operators by ATen's own, for devices that bring no kernel; call them
// through operators.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace quantd::kernels {

void GramAddAny(const at::Tensor& gram, const at::Tensor& input);

bool FeedbackFactorAny(const at::Tensor& matrix, const at::Tensor& pivots);

double GramEnergyAny(const at::Tensor& rows, const at::Tensor& gram);

std::tuple<at::Tensor, at::Tensor> TokenLossesAny(const at::Tensor& logits,
                                                  const at::Tensor& targets);

}  // namespace quantd::kernels
