// SPDX-License-Identifier: Apache-2.0
// What a decoder block is made of: names and shapes, no weights.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "worker/models/shape.h"

namespace quantd::models {

// Stages of every block, in order.
enum StageIndex { kQkv, kOutput, kGateUp, kDown };

// A linear as the configuration describes it.
struct LinearPlan {
  std::string name = {};
  int64_t out_features = 0;
  int64_t in_features = 0;
  bool bias = false;
  // Which of its stage's inputs it reads: of sparse layers, the expert.
  int64_t input = 0;
};

std::string BlockPrefix(int64_t index);

// True where block `index` has experts.
bool IsSparse(const Shape& shape, int64_t index);

// The linears of block `index` by stage. A sparse layer has its experts' gates
// and up projections by turns, then their down projections, the shared expert
// last.
std::vector<std::vector<LinearPlan>> PlanBlock(const Shape& shape,
                                               int64_t index);

// Tensors of block `index` that are read whole: norms and routers, with their
// shapes.
std::map<std::string, std::vector<int64_t>> PlanBlockTensors(const Shape& shape,
                                                             int64_t index);

// The router's and the shared expert's gate as tensors of PlanBlockTensors.
std::string RouterName(const Shape& shape, int64_t index);
std::string SharedGateName(const Shape& shape, int64_t index);

// Linears that stay in floating point whatever a recipe says: routers, by every
// name that their family knows.
std::vector<std::string> PlanRouters(const Shape& shape, int64_t index);

// The most features that stands between two stages of a block, per token.
int64_t WidestInput(const Shape& shape);

}  // namespace quantd::models
