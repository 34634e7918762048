// SPDX-License-Identifier: Apache-2.0
#include "worker/models/sparse_layer.h"

#include <ATen/ops/argsort.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros_like.h>

#include <utility>

namespace quantd::models {

Routing Route(const at::Tensor& x, const at::Tensor& router,
              const Mixture& mixture) {
  const at::Tensor scores = at::mm(x, router.t()).softmax(1);
  auto [weights, experts] = at::topk(scores, mixture.chosen, /*dim=*/1);
  if (mixture.renormalize) {
    weights = weights.div(weights.sum(1, /*keepdim=*/true));
  }
  const at::Tensor expert = experts.reshape(-1);
  const at::Tensor order = at::argsort(expert, /*stable=*/true, /*dim=*/0,
                                       /*descending=*/false);
  const at::Tensor counts =
      at::bincount(expert, {}, /*minlength=*/mixture.experts).cpu();
  const int64_t* count = counts.const_data_ptr<int64_t>();
  Routing routing;
  routing.token = order.floor_divide(mixture.chosen);
  routing.weight = weights.reshape(-1).index_select(0, order);
  routing.rows.assign(count, count + mixture.experts);
  return routing;
}

SparseLayer::SparseLayer(const Shape& shape, at::Tensor router,
                         at::Tensor shared_gate)
    : mixture_(shape.mixture),
      activation_(shape.activation),
      router_(std::move(router)),
      shared_gate_(std::move(shared_gate)) {}

std::vector<at::Tensor> SparseLayer::GateUpInputs(const at::Tensor& x) const {
  const Routing routing = Route(x, router_, mixture_);
  std::vector<at::Tensor> inputs;
  int64_t begin = 0;
  for (const int64_t rows : routing.rows) {
    inputs.push_back(x.index_select(0, routing.token.narrow(0, begin, rows)));
    begin += rows;
  }
  if (mixture_.shared_intermediate > 0) inputs.push_back(x);
  return inputs;
}

std::vector<at::Tensor> SparseLayer::DownInputs(
    const at::Tensor& x, const at::Tensor& packed) const {
  return Split(packed, Route(x, router_, mixture_).rows);
}

std::vector<at::Tensor> SparseLayer::Split(
    const at::Tensor& packed, const std::vector<int64_t>& rows) const {
  const int64_t tokens = packed.size(0);
  const int64_t routed = tokens * mixture_.chosen;
  const int64_t width = mixture_.intermediate;
  const at::Tensor flat = packed.view(-1);
  const at::Tensor experts =
      flat.narrow(0, 0, routed * width).view({routed, width});
  std::vector<at::Tensor> parts;
  int64_t begin = 0;
  for (const int64_t count : rows) {
    parts.push_back(experts.narrow(0, begin, count));
    begin += count;
  }
  const int64_t shared = mixture_.shared_intermediate;
  if (shared > 0) {
    parts.push_back(
        flat.narrow(0, routed * width, tokens * shared).view({tokens, shared}));
  }
  return parts;
}

at::Tensor SparseLayer::GateUp(const at::Tensor& x, const Apply& linear) const {
  const Routing routing = Route(x, router_, mixture_);
  // Put together and not written into one tensor: gradients pass through.
  std::vector<at::Tensor> parts;
  const auto add = [&](size_t e, const at::Tensor& rows) {
    parts.push_back(activation_(linear(2 * e, rows))
                        .mul_(linear(2 * e + 1, rows))
                        .view(-1));
  };
  int64_t begin = 0;
  for (size_t e = 0; e < routing.rows.size(); ++e) {
    const int64_t count = routing.rows[e];
    if (count == 0) continue;
    add(e, x.index_select(0, routing.token.narrow(0, begin, count)));
    begin += count;
  }
  if (mixture_.shared_intermediate > 0) add(routing.rows.size(), x);
  return at::cat(parts).view({x.size(0), -1});
}

at::Tensor SparseLayer::Down(const at::Tensor& x, const at::Tensor& packed,
                             const Apply& linear) const {
  const Routing routing = Route(x, router_, mixture_);
  const std::vector<at::Tensor> parts = Split(packed, routing.rows);
  at::Tensor sum = at::zeros_like(x);
  int64_t begin = 0;
  // A token is in an expert's rows once at most, so that these sums have one
  // order on every device.
  for (size_t e = 0; e < routing.rows.size(); ++e) {
    const int64_t count = routing.rows[e];
    if (count == 0) continue;
    const at::Tensor weight =
        routing.weight.narrow(0, begin, count).unsqueeze(1);
    sum.index_add_(0, routing.token.narrow(0, begin, count),
                   linear(e, parts[e]).mul_(weight));
    begin += count;
  }
  if (mixture_.shared_intermediate > 0) {
    const at::Tensor weight = at::sigmoid(at::mm(x, shared_gate_.t()));
    sum.add_(linear(routing.rows.size(), parts.back()).mul_(weight));
  }
  return sum;
}

}  // namespace quantd::models
