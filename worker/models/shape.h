// SPDX-License-Identifier: Apache-2.0
// Everything that tells one decoder from another, read from config.json.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/models/config.h"
#include "worker/models/rope.h"

namespace quantd::models {

using Activation = at::Tensor (*)(const at::Tensor&);

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
  // RMS norm over each head of queries and keys, before the rope.
  bool q_k_norm = false;
  // The head uses the embedding matrix where it has no tensor of its own.
  bool tied = false;
  Rope rope = {};
  // Per layer: how many keys a query sees, itself included; 0 is all.
  std::vector<int64_t> windows = {};
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

// The window rule of the qwen families: layers from max_window_layers on slide,
// where sliding is on; layer_types overrides it.
void ReadLateWindows(ConfigReader* config, Shape* shape);

}  // namespace quantd::models
