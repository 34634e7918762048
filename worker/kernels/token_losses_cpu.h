// SPDX-License-Identifier: Apache-2.0
// The last step of scoring a token. No LibTorch here: threads are the caller's.
#pragma once

#include <cstdint>

namespace quantd::kernels {

struct TokenLoss {
  // -log softmax(logits)[target]; NaN where a logit is not finite.
  double loss = 0;
  // The largest logit, the first of equal ones.
  int64_t best = 0;
};

// `logits` [n], n > 0. exp in float32, its sum in float64.
TokenLoss LossOfToken(const float* logits, int64_t n, int64_t target);

}  // namespace quantd::kernels
