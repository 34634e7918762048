// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/eager_levels.h"

#include <ATen/ops/bucketize.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp2.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/match.h"

namespace quantd::bench {
namespace {

const formats::Format& FormatOf(const formats::WeightSpec& spec) {
  return **formats::FindFormat(spec.format);
}

// The middles between levels in rising order, and the codes of the levels.
struct Table {
  at::Tensor middles;
  at::Tensor codes;
};

Table TableOf(const formats::Format& format) {
  const at::Tensor levels = format.levels();
  std::vector<std::pair<float, uint8_t>> rising;
  for (int64_t code = 0; code < levels.numel(); ++code) {
    const float level = levels.const_data_ptr<float>()[code];
    const bool minus_zero = level == 0 && std::signbit(level);
    if (std::isfinite(level) && !minus_zero) rising.emplace_back(level, code);
  }
  std::sort(rising.begin(), rising.end());
  std::vector<float> middles;
  at::Tensor codes =
      at::empty({static_cast<int64_t>(rising.size())}, at::kByte);
  for (size_t i = 0; i < rising.size(); ++i) {
    codes.mutable_data_ptr<uint8_t>()[i] = rising[i].second;
    if (i > 0) middles.push_back((rising[i - 1].first + rising[i].first) / 2);
  }
  return {at::tensor(middles), codes};
}

// The type of ATen with the same codes.
std::optional<at::ScalarType> TypeOf(const std::string& format) {
  if (absl::EndsWith(format, "fp8_e4m3")) return at::kFloat8_e4m3fn;
  if (absl::EndsWith(format, "fp8_e5m2")) return at::kFloat8_e5m2;
  return std::nullopt;
}

// Powers of two by the rule "even": the largest magnitude is rounded to the
// element's mantissa, on its bits, and its exponent taken.
at::Tensor PowersOfTwo(const at::Tensor& amax, double largest,
                       int mantissa_bits) {
  const at::Tensor bits =
      amax.view(at::kInt).add(int64_t{1} << (22 - mantissa_bits));
  const at::Tensor exponent =
      bits.bitwise_right_shift(23).sub(127).to(at::kFloat);
  return at::exp2(exponent.sub(std::floor(std::log2(largest))).clamp_min(-127));
}

int EvenBits(const std::string& format) {
  if (format == "mxint8") return 6;
  if (format == "mxfp6_e2m3") return 3;
  if (format == "mxfp6_e3m2") return 2;
  return 1;
}

// [rows, 1]: scales of rows with the largest magnitudes `amax`.
at::Tensor Scales(const at::Tensor& amax, const formats::WeightSpec& spec) {
  const at::Tensor levels = FormatOf(spec).levels();
  const double largest =
      levels.masked_select(levels.isfinite()).max().item<double>();
  if (spec.format == "nf4") return amax;
  if (absl::StartsWith(spec.format, "mx")) {
    return PowersOfTwo(amax, largest, EvenBits(spec.format));
  }
  if (spec.format == "nvfp4") {
    const at::Tensor tensor_scale = amax.max().reciprocal().mul(448.0 * 6);
    return amax.div(6)
        .mul(tensor_scale)
        .clamp_max(448)
        .to(at::kFloat8_e4m3fn)
        .to(at::kFloat)
        .div(tensor_scale);
  }
  return amax.div(largest).to(at::kHalf).to(at::kFloat);
}

}  // namespace

at::Tensor EagerLevels(const at::Tensor& weight,
                       const formats::WeightSpec& spec) {
  const int64_t in = weight.size(1);
  const at::Tensor x = weight.reshape({-1, spec.GroupSizeFor(in)});
  const at::Tensor scale = Scales(x.abs().amax(1, /*keepdim=*/true), spec);
  const at::Tensor units =
      spec.format == "nf4" ? x.mul(scale.reciprocal()) : x.div(scale);
  if (const auto type = TypeOf(spec.format); type.has_value()) {
    const double largest = *type == at::kFloat8_e4m3fn ? 448 : 57344;
    return units.clamp(-largest, largest)
        .to(*type)
        .view(at::kByte)
        .view(weight.sizes());
  }
  const Table table = TableOf(FormatOf(spec));
  const at::Tensor place =
      at::bucketize(units, table.middles, /*out_int32=*/true);
  return table.codes.index_select(0, place.flatten()).view(weight.sizes());
}

}  // namespace quantd::bench
