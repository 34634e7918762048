// SPDX-License-Identifier: Apache-2.0
// Everything that tells one decoder from another, read from config.json.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/models/config.h"
#include "worker/models/mixture.h"
#include "worker/models/rope.h"

namespace quantd::models {

using Activation = at::Tensor (*)(const at::Tensor&);

// What the RMS norm of queries and keys, before the rope, runs over.
enum class HeadNorm { kNone, kEachHead, kAllHeads };

// Constant once it is read.
struct Shape {
  int64_t vocab = 32000;
  int64_t hidden = 4096;
  int64_t intermediate = 11008;
  int64_t layers = 32;
  int64_t heads = 32;
  // Query heads share these; 0 in defaults means as many as `heads`.
  int64_t kv_heads = 0;
  // 0 in defaults means hidden / heads.
  int64_t head_dim = 0;
  int64_t context = 2048;
  double norm_eps = 1e-6;
  Activation activation = nullptr;
  bool q_k_v_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  HeadNorm q_k_norm = HeadNorm::kNone;
  // Queries, keys and values are cut to [-clip, clip] before the rope, after
  // their norms; 0: they are not.
  double q_k_v_clip = 0;
  // The head uses the embedding matrix where it has no tensor of its own.
  bool tied = false;
  Rope rope = {};
  // Per layer: how many keys a query sees, itself included; 0 is all.
  std::vector<int64_t> windows = {};
  Mixture mixture = {};
};

// What a family file says about its models.
struct FamilyTraits {
  std::string id;
  std::string summary;
  // Values for keys that are absent.
  Shape defaults;
  // Sets what is the family's own, after the shared keys were read; problems
  // go to `config`.
  void (*read)(ConfigReader* config, Shape* shape);
};

// INVALID_ARGUMENT, CONFIG_VALUE, naming every value that cannot be.
absl::StatusOr<Shape> ReadShape(const nlohmann::json& config,
                                const FamilyTraits& family);

// The windows of the qwen families where sliding is on: of the layers that
// `slides` says, unless layer_types says otherwise.
using Slides = bool (*)(int64_t layer, int64_t max_window_layers);
void ReadWindows(ConfigReader* config, Shape* shape, Slides slides);
// Layers from max_window_layers on slide.
void ReadLateWindows(ConfigReader* config, Shape* shape);

}  // namespace quantd::models
