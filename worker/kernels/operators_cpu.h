// SPDX-License-Identifier: Apache-2.0
// The functions that operators.cc registers; call them through operators.h.
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

// By ATen's products, so for tensors of any device.
void GramAddAny(const at::Tensor& gram, const at::Tensor& input);

}  // namespace quantd::kernels
