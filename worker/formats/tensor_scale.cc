// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/tensor_scale.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

namespace quantd::formats {

bool HasTensorScale(const WeightSpec& spec) {
  const auto format = FindFormat(spec.format);
  return format.ok() && (*format)->has_tensor_scale();
}

void ShareTensorScales(const std::vector<JoinedWeight>& joined) {
  std::map<std::string, float> ranges;
  for (const JoinedWeight& one : joined) {
    if (!HasTensorScale(*one.spec) || one.weight.numel() == 0) continue;
    const float range = one.weight.abs().max().item<float>();
    float& largest = ranges[one.spec->format];
    if (std::isfinite(range)) largest = std::max(largest, range);
  }
  for (const JoinedWeight& one : joined) {
    const auto range = ranges.find(one.spec->format);
    if (range != ranges.end()) one.spec->shared_range = range->second;
  }
}

}  // namespace quantd::formats
