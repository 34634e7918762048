// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/dynamic_map.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "worker/formats/level_format.h"
#include "worker/kernels/levels_cpu.h"

namespace quantd::formats {
namespace {

// For each of seven decades 10^-6 .. 1 the middles of 2^i equal parts of
// [0.1, 1], of both signs; then 0 and 1. In float32 throughout, so that it
// equals the published table to the bit.
at::Tensor MakeMap() {
  constexpr int kDecades = 7;
  std::vector<at::Tensor> parts = {at::tensor({0.0f, 1.0f})};
  for (int i = 0; i < kDecades; ++i) {
    const int64_t fractions = int64_t{1} << i;
    const at::Tensor ends =
        at::linspace(0.1, 1.0, fractions + 1, at::TensorOptions(at::kFloat));
    const at::Tensor middles =
        ends.narrow(0, 0, fractions).add(ends.narrow(0, 1, fractions)).div(2.0);
    const at::Tensor positive = middles.mul(std::pow(10.0, i - (kDecades - 1)));
    parts.push_back(positive);
    parts.push_back(positive.neg());
  }
  return std::get<0>(at::sort(at::cat(parts)));
}

}  // namespace

const at::Tensor& DynamicMap() {
  static const auto& map = *new at::Tensor(MakeMap());
  return map;
}

const kernels::LevelLookup& DynamicMapTable() {
  static const auto& table = *new kernels::LevelLookup([] {
    std::vector<Level> levels;
    for (int64_t code = 0; code < DynamicMap().numel(); ++code) {
      levels.push_back({DynamicMap().const_data_ptr<float>()[code],
                        static_cast<uint8_t>(code)});
    }
    kernels::LevelLookup made{.rule = MakeLevelRule(levels, Ties::kDown)};
    made.rule.reciprocal = true;
    return made;
  }());
  return table;
}

DynamicCodes EncodeDynamic(const at::Tensor& values) {
  DynamicCodes coded;
  coded.offset = values.mean().view({1});
  const at::Tensor rest = values.sub(coded.offset).contiguous();
  const int64_t n = rest.numel();
  const int64_t blocks = (n + kDynamicBlock - 1) / kDynamicBlock;
  coded.codes = at::empty({n}, at::kByte);
  coded.absmax = at::empty({blocks}, at::kFloat);
  const float* from = rest.const_data_ptr<float>();
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = b * kDynamicBlock;
    const int64_t count = std::min(kDynamicBlock, n - begin);
    float absmax = 0;
    for (int64_t i = begin; i < begin + count; ++i) {
      absmax = std::max(absmax, std::abs(from[i]));
    }
    // Its reciprocal must be finite.
    if (!std::isfinite(1.0f / absmax)) absmax = 0;
    coded.absmax.mutable_data_ptr<float>()[b] = absmax;
    kernels::RoundToLevels(from + begin, 1, count, &absmax, DynamicMapTable(),
                           coded.codes.mutable_data_ptr<uint8_t>() + begin);
  }
  return coded;
}

at::Tensor DecodeDynamic(const DynamicCodes& coded) {
  at::Tensor values =
      DynamicMap().index_select(0, coded.codes.to(at::kInt)).contiguous();
  float* value = values.mutable_data_ptr<float>();
  const float* absmax = coded.absmax.const_data_ptr<float>();
  for (int64_t i = 0; i < values.numel(); ++i) {
    value[i] *= absmax[i / kDynamicBlock];
  }
  return values.add_(coded.offset);
}

}  // namespace quantd::formats
