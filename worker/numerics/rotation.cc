// SPDX-License-Identifier: Apache-2.0
#include "worker/numerics/rotation.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <utility>

#include "worker/numerics/hadamard.h"

namespace quantd::numerics {
namespace {

// A weight in float64 would be the largest thing in memory.
constexpr int64_t kValuesAtOnce = int64_t{1} << 23;

at::Tensor ByPieces(
    const at::Tensor& weight, at::ScalarType type,
    const std::function<at::Tensor(const at::Tensor& rows)>& map) {
  const int64_t rows = weight.size(0);
  const int64_t step = std::max<int64_t>(
      1, kValuesAtOnce / std::max<int64_t>(1, weight.size(1)));
  at::Tensor result = at::empty(weight.sizes(), weight.options().dtype(type));
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t count = std::min(step, rows - row);
    result.narrow(0, row, count)
        .copy_(map(weight.narrow(0, row, count).cpu().to(at::kDouble)));
  }
  return result;
}

}  // namespace

Rotation::Rotation(int64_t columns, uint64_t seed, at::Tensor signs)
    : columns_(columns),
      seed_(seed),
      order_(HadamardBlock(columns)),
      signs_(std::move(signs)) {}

Rotation Rotation::Plain(int64_t columns) {
  return Rotation(columns, 0, at::Tensor());
}

Rotation Rotation::Randomized(int64_t columns, uint64_t seed) {
  std::mt19937_64 bits(seed);
  at::Tensor signs = at::empty({columns}, at::kFloat);
  float* values = signs.mutable_data_ptr<float>();
  for (int64_t i = 0; i < columns; ++i) {
    values[i] = (bits() >> 63) != 0 ? -1.0f : 1.0f;
  }
  return Rotation(columns, seed, std::move(signs));
}

at::Tensor Rotation::Apply(const at::Tensor& rows) const {
  const at::Tensor turned = TimesHadamard(
      signs_.defined() ? rows.mul(signs_.to(rows.options())) : rows, order_);
  return turned.mul(1 / std::sqrt(static_cast<double>(order_)));
}

at::Tensor Rotation::Undo(const at::Tensor& rows) const {
  const at::Tensor turned =
      TimesHadamardTransposed(rows, order_)
          .mul(1 / std::sqrt(static_cast<double>(order_)));
  return signs_.defined() ? turned.mul(signs_.to(rows.options())) : turned;
}

at::Tensor Rotation::ApplyToWeight(const at::Tensor& weight,
                                   at::ScalarType type) const {
  return ByPieces(weight, type,
                  [this](const at::Tensor& rows) { return Apply(rows); });
}

at::Tensor Rotation::UndoOnWeight(const at::Tensor& weight,
                                  at::ScalarType type) const {
  return ByPieces(weight, type,
                  [this](const at::Tensor& rows) { return Undo(rows); });
}

}  // namespace quantd::numerics
