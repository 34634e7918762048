// SPDX-License-Identifier: Apache-2.0
// An orthogonal change of the basis of rows that is cheap enough to be done
// while a model runs: each run of `order` columns times Q = diag(signs) H /
// sqrt(order), H the Hadamard matrix of the largest order that divides the
// columns.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

namespace quantd::numerics {

// Immutable; copies share what they hold. Thread-safe.
class Rotation {
 public:
  // All signs are 1.
  static Rotation Plain(int64_t columns);
  // The signs follow from `seed` and the columns alone.
  static Rotation Randomized(int64_t columns, uint64_t seed);

  // `rows` [rows, columns] times Q, and times Q^T. In the type of the rows,
  // float32 or float64, on their device; gradients pass.
  at::Tensor Apply(const at::Tensor& rows) const;
  at::Tensor Undo(const at::Tensor& rows) const;
  // The same of a weight on any device: products in float64, rounded once to
  // `type`.
  at::Tensor ApplyToWeight(const at::Tensor& weight, at::ScalarType type) const;
  at::Tensor UndoOnWeight(const at::Tensor& weight, at::ScalarType type) const;

  int64_t columns() const { return columns_; }
  // Of Randomized; 0 of Plain.
  uint64_t seed() const { return seed_; }

 private:
  Rotation(int64_t columns, uint64_t seed, at::Tensor signs);

  int64_t columns_;
  uint64_t seed_;
  int64_t order_;
  // float32 [columns] on the CPU; undefined where all are 1.
  at::Tensor signs_;
};

// How the inputs of linears are rotated before they are rounded and multiplied
// with weights, by module.
using InputRotations = std::map<std::string, Rotation>;

}  // namespace quantd::numerics
