// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding and its scalings.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "worker/models/config.h"

namespace quantd::models {

// The rope of a model, as its config spells it.
struct Rope {
  // "default", "linear", "dynamic", "llama3", "yarn" or "divisors".
  std::string type = "default";
  double theta = 10000.0;
  double factor = 1.0;
  // The context before scaling; 0 where it is the model's own.
  int64_t original_context = 0;
  // llama3.
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  // yarn.
  std::optional<double> attention_factor = std::nullopt;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double mscale = 0.0;
  double mscale_all_dim = 0.0;
  bool truncate = true;
  // divisors: what each frequency is divided by, as GGUF files give it.
  std::vector<double> divisors = {};
};

// Reads either spelling: "rope_parameters", or "rope_scaling" beside
// "rope_theta". Problems go to `config`.
Rope ReadRope(ConfigReader* config, double default_theta);

// Cosines and sines by position. Used by one thread at a time.
class RopeTable {
 public:
  struct Angles {
    // float32 [tokens, head_dim / 2], the attention factor included.
    at::Tensor cos;
    at::Tensor sin;
  };

  // `context` is the longest sequence that the model was made for.
  RopeTable(Rope rope, int64_t head_dim, int64_t context, at::Device device);

  // Of positions 0 .. tokens - 1 in a sequence of `tokens`.
  const Angles& For(int64_t tokens) const;

 private:
  Angles Compute(int64_t tokens) const;

  const Rope rope_;
  const int64_t head_dim_;
  const int64_t context_;
  const at::Device device_;
  mutable Angles angles_;  // Of the latest length.
};

// `x` float32 [tokens, heads, head_dim], rotated in halves: element i pairs
// with element i + head_dim / 2.
at::Tensor Rotate(const at::Tensor& x, const RopeTable::Angles& angles);

}  // namespace quantd::models
