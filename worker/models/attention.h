// SPDX-License-Identifier: Apache-2.0
// Causal self-attention of one sequence.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace quantd::models {

struct AttentionOptions {
  double scale = 1.0;
  // How many keys a query sees, itself included; 0 is all before it.
  int64_t window = 0;
};

// `q` float32 [tokens, heads, head_dim]; `k`, `v` [tokens, kv_heads, head_dim],
// each shared by heads / kv_heads query heads in a row. Returns float32
// [tokens, heads * head_dim]. Exact: the softmax sees all keys at once, queries
// are taken in blocks that bound the memory.
at::Tensor CausalAttention(const at::Tensor& q, const at::Tensor& k,
                           const at::Tensor& v,
                           const AttentionOptions& options);

}  // namespace quantd::models
