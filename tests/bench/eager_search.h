// SPDX-License-Identifier: Apache-2.0
// The inner steps of searches over scales and rounding as the published Python
// does them, in ATen operators.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace quantd::bench {

// Four bits with zero points in groups, dequantized (AutoAWQ, quantizer.py).
at::Tensor EagerPseudoQuantize(const at::Tensor& weight, int64_t group_size);

// What one scale costs on tokens: the mean square of what the outputs change
// (AutoAWQ and llm-awq). `inputs` float32 [tokens, in]; `outputs` float32
// [tokens, out], of the float weight; `rounded` float32 [out, in].
double EagerOutputLoss(const at::Tensor& inputs, const at::Tensor& outputs,
                       const at::Tensor& rounded);

// AutoRound's variables of a linear in four bits and its step by autograd, the
// rounding taken for the identity (auto-round, quant_tensor_sym and _asym).
class EagerSignedRounding {
 public:
  // `weight` float32 [out, in], whole groups.
  EagerSignedRounding(const at::Tensor& weight, int64_t group_size,
                      bool symmetric);

  // One forward, the backward of a loss with the gradient `outer` by the
  // weights, and the step by its signs.
  void Turn(const at::Tensor& outer, double learning_rate);
  const at::Tensor& offset() const { return offset_; }

 private:
  at::Tensor Weight() const;

  const at::Tensor weight_;  // [groups, group_size]
  const bool symmetric_;
  at::Tensor offset_;
  at::Tensor low_;
  at::Tensor high_;
};

}  // namespace quantd::bench
