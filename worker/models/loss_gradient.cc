// SPDX-License-Identifier: Apache-2.0
#include "worker/models/loss_gradient.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "proto/base/status_macros.h"

namespace quantd::models {
namespace {

// Logits that are held at once: 64 MiB of float32.
constexpr int64_t kMaxLogits = int64_t{16} << 20;

}  // namespace

absl::StatusOr<at::Tensor> HeadGradient(Model& model, const Linear& head,
                                        const at::Tensor& hidden,
                                        const at::Tensor& ids) {
  const at::AutoGradMode gradients(true);
  const at::Tensor read = hidden.detach().requires_grad_(true);
  ASSIGN_OR_RETURN(const at::Tensor input, model.FinalNorm(read));
  const at::Tensor rows = input.detach();
  at::Tensor by_input = at::zeros_like(rows);
  const at::Tensor weight = head.DenseWeight();
  const at::Tensor next = ids.to(hidden.device()).unsqueeze(1);
  const int64_t last = ids.size(0) - 1;
  const int64_t step = std::max<int64_t>(1, kMaxLogits / head.out_features());
  for (int64_t begin = 0; begin < last; begin += step) {
    const int64_t count = std::min(step, last - begin);
    const at::Tensor chosen = next.narrow(0, begin + 1, count);
    // The loss's gradient by the logits: what the model says minus what is so.
    const at::Tensor logits =
        at::softmax(head.Apply(rows.narrow(0, begin, count)), -1);
    logits.scatter_add_(1, chosen, at::full({count, 1}, -1, rows.options()));
    by_input.narrow(0, begin, count).copy_(at::mm(logits, weight));
  }
  input.backward(by_input);
  return read.grad();
}

at::Tensor InputGradient(const OpenBlock& block, const at::Tensor& input,
                         const at::Tensor& gradient) {
  const at::AutoGradMode gradients(true);
  const at::Tensor read = input.detach().requires_grad_(true);
  block.Forward(read, {}).backward(gradient);
  return read.grad();
}

}  // namespace quantd::models
