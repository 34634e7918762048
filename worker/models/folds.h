// SPDX-License-Identifier: Apache-2.0
// Where a model's function stays the same while its weights change: what the
// families tell transforms. Names only; nothing here touches a weight.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace quantd::models {

// A scale per channel can move between what makes an input and what reads it:
// rows of `producers` divided by s, columns of `consumers` multiplied by s.
// Exact, since everything in between commutes with a positive scale.
struct ScaleFold {
  // True: a norm makes the channels; false: a linear does.
  bool from_norm = false;
  // Tensors with one row or entry per channel: a norm's weight, or the weight
  // and bias of a linear.
  std::vector<std::string> producers;
  // Every module that reads the channels, those that stay in floating point
  // (routers) among them. What they read is never read by another module.
  std::vector<std::string> consumers;
  int64_t channels = 0;
  // Query heads share the values of a head: each run of `head_size` channels
  // is read `repeats` times, one after the other. 1 and all channels elsewhere.
  int64_t head_size = 0;
  int64_t repeats = 1;

  // A value per channel, [channels], as a value per input feature,
  // [channels * repeats].
  at::Tensor Spread(const at::Tensor& per_channel) const;
  // The features that read each channel: [channels, repeats] of a value per
  // input feature.
  at::Tensor Gather(const at::Tensor& per_feature) const;
};

// Of one decoder block.
struct BlockFolds {
  // A module is a consumer of at most one; inputs without one cannot be scaled.
  std::vector<ScaleFold> scales;
  // Linears whose outputs are multiplied with one another (queries and keys):
  // their weights are not clipped.
  std::vector<std::string> score_linears;
};

// A norm and every module that reads what it makes.
struct NormUse {
  // Tensor of the gain.
  std::string norm;
  // Modules.
  std::vector<std::string> consumers;
};

// Values of a head on their way through attention.
struct ValueHeads {
  // Modules: rows of `value` come in runs of `head_size`, columns of `output`
  // too, and each run of columns reads some run of rows.
  std::string value;
  std::string output;
  int64_t head_size = 0;
};

// How an orthogonal matrix moves through a model whose blocks add to a residual
// stream and read it through norms that keep lengths (QuaRot, arXiv:2404.00456,
// section 4).
struct RotationPlan {
  // Tensors with a row of the residual stream per token.
  std::string embedding;
  std::string head;
  // The head is the embedding matrix and must get a tensor of its own.
  bool tied = false;
  int64_t hidden = 0;
  // Modules whose output is added to the residual stream, and those of them
  // that read what comes out of an activation function.
  std::vector<std::string> writers;
  std::vector<std::string> down_projections;
  std::vector<NormUse> norms;
  std::vector<ValueHeads> values;
};

}  // namespace quantd::models
