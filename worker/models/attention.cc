// SPDX-License-Identifier: Apache-2.0
#include "worker/models/attention.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <limits>

namespace quantd::models {
namespace {

// Scores of one block of queries: 64 MiB of float32.
constexpr int64_t kMaxScores = int64_t{16} << 20;
// Short blocks multiply few keys that their queries may not see: at 512 tokens
// 5/8 of the square and not all of it.
constexpr int64_t kMaxBlockQueries = 128;

int64_t QueriesPerBlock(int64_t heads, int64_t tokens) {
  return std::clamp<int64_t>(kMaxScores / (heads * tokens), 1,
                             std::min(tokens, kMaxBlockQueries));
}

// True where query `begin` + row may not see key `first_key` + column.
at::Tensor Hidden(int64_t begin, int64_t end, int64_t first_key, int64_t window,
                  at::Device device) {
  const auto options = at::TensorOptions().dtype(at::kLong).device(device);
  const at::Tensor query = at::arange(begin, end, options).unsqueeze(1);
  const at::Tensor key = at::arange(first_key, end, options).unsqueeze(0);
  at::Tensor hidden = key.gt(query);
  if (window > 0) hidden.logical_or_(key.le(query.sub(window)));
  return hidden;
}

}  // namespace

at::Tensor CausalAttention(const at::Tensor& q, const at::Tensor& k,
                           const at::Tensor& v,
                           const AttentionOptions& options) {
  const int64_t tokens = q.size(0);
  const int64_t heads = q.size(1);
  const int64_t head_dim = q.size(2);
  const int64_t kv_heads = k.size(1);
  const int64_t shared = heads / kv_heads;
  // [kv_heads, head_dim, tokens] and [kv_heads, tokens, head_dim].
  const at::Tensor keys = k.permute({1, 2, 0});
  const at::Tensor values = v.transpose(0, 1).contiguous();
  // [kv_heads, shared, tokens, head_dim]
  const at::Tensor queries = q.mul(options.scale)
                                 .view({tokens, kv_heads, shared, head_dim})
                                 .permute({1, 2, 0, 3})
                                 .contiguous();
  at::Tensor output = at::empty({tokens, heads, head_dim}, q.options());
  const int64_t step = QueriesPerBlock(heads, tokens);
  for (int64_t begin = 0; begin < tokens; begin += step) {
    const int64_t end = std::min(begin + step, tokens);
    const int64_t first_key =
        options.window > 0 ? std::max<int64_t>(0, begin - options.window + 1)
                           : 0;
    const int64_t num_keys = end - first_key;
    const int64_t num_queries = end - begin;
    const at::Tensor block =
        queries.slice(2, begin, end)
            .reshape({kv_heads, shared * num_queries, head_dim});
    at::Tensor scores = at::bmm(block, keys.slice(2, first_key, end));
    // Without a window every key before the block is seen by all of it.
    const int64_t first_hidden = options.window > 0 ? first_key : begin;
    scores.view({kv_heads * shared, num_queries, num_keys})
        .slice(2, first_hidden - first_key)
        .masked_fill_(
            Hidden(begin, end, first_hidden, options.window, q.device()),
            -std::numeric_limits<float>::infinity());
    scores = at::softmax(scores, -1);
    const at::Tensor mixed = at::bmm(scores, values.slice(1, first_key, end));
    output.slice(0, begin, end)
        .copy_(mixed.view({heads, num_queries, head_dim}).transpose(0, 1));
  }
  return output.view({tokens, heads * head_dim});
}

}  // namespace quantd::models
