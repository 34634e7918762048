// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/level_format.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace quantd::formats {
namespace {

// Values at which a code could change, with their neighbours, the ends, what
// lies beyond, and some more, an odd number of them.
std::vector<float> Critical(const kernels::LevelGridRule& rule) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> values = {0.0f,   -0.0f,      1e-45f,    -1e-45f, 1e-38f,
                               -1e38f, -kInfinity, kInfinity, 3e38f};
  for (int32_t i = 1; i < rule.size; ++i) {
    const int32_t key = rule.keys[i];
    const int32_t bits = key < 0 ? key ^ 0x7fffffff : key;
    float boundary;
    memcpy(&boundary, &bits, sizeof(boundary));
    values.push_back(boundary);
    values.push_back(std::nextafterf(boundary, -kInfinity));
    values.push_back(std::nextafterf(boundary, kInfinity));
    values.push_back(rule.levels[rule.codes[i]]);
  }
  std::mt19937 bits(3);
  std::normal_distribution<float> normal(0, rule.levels[rule.codes[0]] / 2);
  for (int i = 0; i < 1000; ++i) values.push_back(normal(bits));
  if (values.size() % 2 == 0) values.push_back(1);
  return values;
}

TEST(LevelFormatTest, VectorsRoundToTheTableWhereverACodeChanges) {
  int compared = 0;
  for (const FormatEntry& entry : Registry()) {
    const kernels::LevelGridRule* rule = entry.format->level_rule();
    if (rule == nullptr) continue;
    const at::Tensor values = at::tensor(Critical(*rule)).view({1, -1});
    const at::Tensor codes =
        entry.format->Nearest(values, {at::ones({1}), at::Tensor()});
    for (int64_t i = 0; i < values.numel(); ++i) {
      const float value = values.const_data_ptr<float>()[i];
      EXPECT_EQ(codes.const_data_ptr<uint8_t>()[i],
                kernels::NearestLevel(value, *rule))
          << entry.description.id() << " " << value;
    }
    ++compared;
  }
  EXPECT_GE(compared, 14);
}

TEST(LevelFormatTest, MagnitudesOfRowsShowWhatIsNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (const int64_t columns : {1, 7, 8, 16, 33}) {
    at::Tensor rows = at::ones({5, columns});
    rows[1][columns - 1] = -2.5f;
    rows[2][0] = -kInfinity;
    rows[3][columns / 2] = kNan;
    rows[4].fill_(-0.0f);
    const at::Tensor largest = LargestMagnitudes(rows);
    EXPECT_EQ(largest[0].item<float>(), 1);
    EXPECT_EQ(largest[1].item<float>(), 2.5f);
    EXPECT_FALSE(std::isfinite(largest[2].item<float>()));
    EXPECT_FALSE(std::isfinite(largest[3].item<float>()));
    EXPECT_EQ(largest[4].item<float>(), 0);
  }
}

}  // namespace
}  // namespace quantd::formats
