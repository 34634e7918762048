// SPDX-License-Identifier: Apache-2.0
// A linear layer as a model runs it: y = x W^T + b, over float or packed
// weights, or y = x Q W^T + b, where its input is rotated first. Where the
// weights come from is a LinearLoader's business.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/formats/quantized_linear.h"
#include "worker/formats/row_rounding.h"
#include "worker/numerics/rotation.h"

namespace quantd::models {

// Immutable; used by one thread at a time.
class Linear {
 public:
  virtual ~Linear() = default;
  // `input` float32 [tokens, in] -> float32 [tokens, out].
  virtual at::Tensor Apply(const at::Tensor& input) const = 0;
  // float32 [out, in]; a copy where the weights are packed.
  virtual at::Tensor DenseWeight() const = 0;
  virtual int64_t out_features() const = 0;
  virtual int64_t in_features() const = 0;
  // float32 [out]; undefined where the layer has no bias.
  virtual const at::Tensor& bias() const = 0;
  // What Apply does to its input before anything is rounded and multiplied;
  // null: nothing. Lives as long as the linear.
  virtual const numerics::Rotation* input_rotation() const { return nullptr; }
  // Memory of weights, scales, zero points and bias.
  virtual int64_t weight_bytes() const = 0;
};

// `weight` float32 [out, in]; `bias` float32 [out] or undefined.
std::unique_ptr<Linear> MakeDenseLinear(at::Tensor weight, at::Tensor bias);

// Keeps the codes packed and expands a tile at a time while it computes.
// Bit-identical to MakeDenseLinear(Dequantize(linear), bias). `linear` is of a
// registered format.
std::unique_ptr<Linear> MakePackedLinear(const formats::QuantizedLinear& linear,
                                         at::Tensor bias,
                                         at::Device device = at::kCPU);

// Rounds its input and applies `linear`, which it is in all else. `rounding`
// may be empty: then it is `linear`.
std::unique_ptr<Linear> MakeRoundedLinear(std::unique_ptr<Linear> linear,
                                          formats::RowRounding rounding);

// Rotates its input and applies `linear`, whose weight belongs behind the
// rotation, W Q. `rotation` is copied; null: then it is `linear`.
std::unique_ptr<Linear> MakeRotatedLinear(std::unique_ptr<Linear> linear,
                                          const numerics::Rotation* rotation);

// Makes the linears of a model from a checkpoint.
class LinearLoader {
 public:
  virtual ~LinearLoader() = default;
  // How the model's attention keeps keys and values; empty: as they are.
  virtual formats::KvRounding KvRounding() const { return {}; }
  // `name` is the module, without ".weight". NOT_FOUND, TENSOR_MISSING;
  // INVALID_ARGUMENT, TENSOR_SHAPE, where out or in differ.
  virtual absl::StatusOr<std::unique_ptr<Linear>> Load(const std::string& name,
                                                       int64_t out_features,
                                                       int64_t in_features,
                                                       bool has_bias) = 0;
};

// The linears of `loader`, whose weights are as they were before any rotation.
// Those that `rotations` names when they are loaded rotate their inputs and
// have weights that are rotated beforehand, so that they compute the same.
// `rotations` outlives the loader.
std::unique_ptr<LinearLoader> WithRotatedInputs(
    std::unique_ptr<LinearLoader> loader,
    const numerics::InputRotations& rotations);

}  // namespace quantd::models
