// SPDX-License-Identifier: Apache-2.0
#include "worker/models/linear.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <utility>

#include "worker/formats/format.h"
#include "worker/models/packed_codes.h"

namespace quantd::models {
namespace {

// Rows of the weight that are multiplied at a time. Dense and packed weights
// use the same tiles: a matrix library may sum in another order for another
// shape, and their results are to be the same bits.
constexpr int64_t kCpuTileRows = 512;
constexpr int64_t kDeviceTileRows = 4096;
constexpr int kMaxBits = 8;

int64_t TileRows(const at::Device& device) {
  return device.is_cpu() ? kCpuTileRows : kDeviceTileRows;
}

int64_t Bytes(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<int64_t>(tensor.nbytes()) : 0;
}

// y = x W^T + b, where `weight(begin, end)` gives contiguous float32 rows.
template <typename WeightRows>
at::Tensor Multiply(const at::Tensor& input, int64_t out_features,
                    const at::Tensor& bias, const WeightRows& weight) {
  at::Tensor output = at::empty({input.size(0), out_features}, input.options());
  const int64_t step = TileRows(input.device());
  for (int64_t begin = 0; begin < out_features; begin += step) {
    const int64_t end = std::min(begin + step, out_features);
    at::Tensor tile = output.slice(1, begin, end);
    at::mm_out(tile, input, weight(begin, end).t());
  }
  if (bias.defined()) output.add_(bias);
  return output;
}

class DenseLinear : public Linear {
 public:
  DenseLinear(at::Tensor weight, at::Tensor bias)
      : weight_(weight.contiguous()), bias_(std::move(bias)) {}

  at::Tensor Apply(const at::Tensor& input) const override {
    return Multiply(input, out_features(), bias_,
                    [this](int64_t begin, int64_t end) {
                      return weight_.slice(0, begin, end);
                    });
  }
  at::Tensor DenseWeight() const override { return weight_; }
  int64_t out_features() const override { return weight_.size(0); }
  int64_t in_features() const override { return weight_.size(1); }
  const at::Tensor& bias() const override { return bias_; }
  int64_t weight_bytes() const override {
    return Bytes(weight_) + Bytes(bias_);
  }

 private:
  const at::Tensor weight_;
  const at::Tensor bias_;
};

// Half the memory, where float16 holds every scale exactly, as it does unless a
// recipe asks for wider scales.
at::Tensor NarrowScales(const at::Tensor& scales) {
  const at::Tensor half = scales.to(at::kHalf);
  return at::equal(half.to(at::kFloat), scales) ? half : scales;
}

class PackedLinear : public Linear {
 public:
  PackedLinear(const formats::QuantizedLinear& linear, at::Tensor bias,
               at::Device device)
      : layout_(linear), bits_(BitsOf(linear)), bias_(std::move(bias)) {
    packed_ = PackCodes(linear.codes, bits_).to(device);
    scales_ = NarrowScales(linear.scales).to(device);
    if (linear.zeros.defined()) zeros_ = linear.zeros.to(device);
    if (linear.offsets.defined()) offsets_ = linear.offsets.to(device);
    if (layout_.group_index.defined()) {
      layout_.group_index = layout_.group_index.to(device);
    }
    layout_.codes = at::Tensor();
    layout_.scales = at::Tensor();
    layout_.zeros = at::Tensor();
    layout_.offsets = at::Tensor();
    layout_.parts.clear();
  }

  at::Tensor Apply(const at::Tensor& input) const override {
    return Multiply(
        input, out_features(), bias_,
        [this](int64_t begin, int64_t end) { return Rows(begin, end); });
  }
  at::Tensor DenseWeight() const override {
    std::vector<at::Tensor> tiles;
    const int64_t step = TileRows(packed_.device());
    for (int64_t begin = 0; begin < out_features(); begin += step) {
      tiles.push_back(Rows(begin, std::min(begin + step, out_features())));
    }
    return tiles.size() == 1 ? tiles[0] : at::cat(tiles, 0);
  }
  int64_t out_features() const override { return layout_.out_features; }
  int64_t in_features() const override { return layout_.in_features; }
  const at::Tensor& bias() const override { return bias_; }
  int64_t weight_bytes() const override {
    return Bytes(packed_) + Bytes(scales_) + Bytes(zeros_) + Bytes(offsets_) +
           Bytes(layout_.group_index) + Bytes(bias_);
  }

 private:
  static int BitsOf(const formats::QuantizedLinear& linear) {
    const auto format = formats::FindFormat(linear.format);
    return format.ok() ? (*format)->bits() : kMaxBits;
  }

  // float32 [end - begin, in], by the format's own rule.
  at::Tensor Rows(int64_t begin, int64_t end) const {
    formats::QuantizedLinear tile = layout_;
    tile.out_features = end - begin;
    tile.codes =
        UnpackCodes(packed_.slice(0, begin, end), bits_, in_features());
    tile.scales = GridRows(scales_, begin, end).to(at::kFloat);
    if (zeros_.defined()) tile.zeros = GridRows(zeros_, begin, end);
    if (offsets_.defined()) tile.offsets = GridRows(offsets_, begin, end);
    return formats::Dequantize(tile);
  }

  // What rows [begin, end) have of scales, zero points or offsets.
  at::Tensor GridRows(const at::Tensor& grid, int64_t begin,
                      int64_t end) const {
    if (layout_.group_axis == 1) return grid.slice(0, begin, end);
    const at::Tensor weights =
        at::arange(begin * in_features(), end * in_features(),
                   grid.options().dtype(at::kLong));
    return grid.index_select(1, weights.remainder(grid.numel()));
  }

  // Sizes and groups; its tensors of codes and grids are undefined.
  formats::QuantizedLinear layout_;
  const int bits_;
  at::Tensor packed_;
  at::Tensor scales_;
  at::Tensor zeros_;
  at::Tensor offsets_;
  const at::Tensor bias_;
};

class RoundedLinear : public Linear {
 public:
  RoundedLinear(std::unique_ptr<Linear> linear, formats::RowRounding rounding)
      : linear_(std::move(linear)), rounding_(std::move(rounding)) {}

  at::Tensor Apply(const at::Tensor& input) const override {
    return linear_->Apply(rounding_(input));
  }
  at::Tensor DenseWeight() const override { return linear_->DenseWeight(); }
  int64_t out_features() const override { return linear_->out_features(); }
  int64_t in_features() const override { return linear_->in_features(); }
  const at::Tensor& bias() const override { return linear_->bias(); }
  const numerics::Rotation* input_rotation() const override {
    return linear_->input_rotation();
  }
  int64_t weight_bytes() const override { return linear_->weight_bytes(); }

 private:
  const std::unique_ptr<Linear> linear_;
  const formats::RowRounding rounding_;
};

}  // namespace

std::unique_ptr<Linear> MakeRoundedLinear(std::unique_ptr<Linear> linear,
                                          formats::RowRounding rounding) {
  if (rounding == nullptr) return linear;
  return std::make_unique<RoundedLinear>(std::move(linear),
                                         std::move(rounding));
}

std::unique_ptr<Linear> MakeDenseLinear(at::Tensor weight, at::Tensor bias) {
  return std::make_unique<DenseLinear>(std::move(weight), std::move(bias));
}

std::unique_ptr<Linear> MakePackedLinear(const formats::QuantizedLinear& linear,
                                         at::Tensor bias, at::Device device) {
  if (bias.defined()) bias = bias.to(device);
  return std::make_unique<PackedLinear>(linear, std::move(bias), device);
}

}  // namespace quantd::models
