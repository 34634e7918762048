// SPDX-License-Identifier: Apache-2.0
// Sparse feed-forward layers: a router sends each token to a few of many
// experts, each a gated feed-forward layer of its own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quantd::models {

class ConfigReader;
struct Shape;

// What a family calls the parts of its sparse layers.
struct ExpertNames {
  // Below the block's prefix; before ".gate" and ".experts.<e>.".
  std::string layer = "mlp";
  std::string gate = "gate_proj";
  std::string up = "up_proj";
  std::string down = "down_proj";
};

struct Mixture {
  // 0: every layer is dense.
  int64_t experts = 0;
  // Experts that see a token.
  int64_t chosen = 0;
  // Width of an expert; 0 in defaults means the feed-forward width.
  int64_t intermediate = 0;
  // The weights of a token's experts are divided by their sum.
  bool renormalize = false;
  // Width of the expert that sees every token, weighted by a sigmoid of its
  // own; 0: there is none.
  int64_t shared_intermediate = 0;
  ExpertNames names = {};
  // Per layer, whether it is sparse; filled in by the functions below.
  std::vector<bool> sparse = {};
};

// Numbers of experts, in all and per token, under the keys of all families;
// makes every layer sparse.
void ReadMixture(ConfigReader* config, Shape* shape);

// The qwen families' own keys, after ReadMixture: the experts' width, whether
// their weights are renormalised, and which layers are sparse.
void ReadSparseLayers(ConfigReader* config, Shape* shape);

}  // namespace quantd::models
