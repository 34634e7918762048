// SPDX-License-Identifier: Apache-2.0
#include "worker/exports/gptq_layout.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/isfinite.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/exports/code_packing.h"
#include "worker/formats/format.h"

namespace quantd::exports {
namespace {

constexpr int64_t kBitsPerWord = 32;

absl::Status Invalid(absl::string_view module, absl::string_view what) {
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "GPTQ_TENSOR_INVALID",
      absl::StrCat(module, ": ", what), {{"module", std::string(module)}});
}

// int32 [in]: k / group_size, what readers assume where there is no act order.
at::Tensor ConsecutiveGroups(int64_t in_features, int64_t group_size) {
  return at::arange(in_features, at::kInt)
      .floor_divide(group_size)
      .to(at::kInt);
}

absl::StatusOr<at::Tensor> ReadTyped(checkpoints::CheckpointReader& reader,
                                     const std::string& module,
                                     const std::string& leaf,
                                     at::ScalarType dtype) {
  ASSIGN_OR_RETURN(at::Tensor tensor,
                   reader.Read(absl::StrCat(module, ".", leaf)));
  if (tensor.scalar_type() != dtype) {
    return Invalid(module, absl::StrCat(leaf, " has an unexpected type"));
  }
  return tensor.contiguous();
}

// The width follows from the shape, so that per-module widths need no pattern
// language: [in * bits / 32, out].
absl::StatusOr<int> WidthOf(const at::Tensor& qweight, const GptqModule& module,
                            GptqVersion version) {
  if (qweight.dim() != 2 || qweight.size(1) != module.out_features ||
      module.in_features % kCodesPerChunk != 0 ||
      qweight.size(0) > module.in_features) {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "TENSOR_SHAPE",
        absl::StrCat(module.name, ": qweight does not hold a layer of ",
                     module.out_features, " x ", module.in_features),
        {{"module", module.name}});
  }
  const int64_t bits = qweight.size(0) * kBitsPerWord / module.in_features;
  if (bits * module.in_features != qweight.size(0) * kBitsPerWord ||
      !GptqHasWidth(static_cast<int>(bits), version)) {
    return Invalid(
        module.name,
        absl::StrCat("qweight has ", qweight.size(0),
                     " rows, which fit no width that the layout has"));
  }
  return static_cast<int>(bits);
}

// As PackRows and UnpackRows.
at::Tensor Pack(const at::Tensor& codes, int bits, GptqVersion version) {
  return version == GptqVersion::kPlanar ? PackPlanes(codes, bits)
                                         : PackRows(codes, bits);
}

at::Tensor Unpack(const at::Tensor& words, int bits, GptqVersion version) {
  return version == GptqVersion::kPlanar ? UnpackPlanes(words, bits)
                                         : UnpackRows(words, bits);
}

// uint8 [out, groups]. v1 readers add one and keep the low bits.
at::Tensor DecodeZeros(const at::Tensor& qzeros, int bits,
                       GptqVersion version) {
  at::Tensor zeros = Unpack(qzeros, bits, version);
  if (version == GptqVersion::kV1) {
    zeros = zeros.add(1).bitwise_and((1 << bits) - 1);
  }
  return zeros.t().contiguous();
}

absl::Status CheckGroups(const GptqModule& module, const at::Tensor& qzeros,
                         const at::Tensor& scales, int bits) {
  if (scales.dim() != 2 || scales.size(0) < 1 ||
      scales.size(0) > module.in_features ||
      scales.size(1) != module.out_features) {
    return Invalid(module.name, "scales have the wrong shape");
  }
  if (!at::isfinite(scales).all().item<bool>()) {
    return Invalid(module.name, "a scale is not finite");
  }
  if (module.out_features % kCodesPerChunk != 0 || qzeros.dim() != 2 ||
      qzeros.size(0) != scales.size(0) ||
      qzeros.size(1) * kBitsPerWord != module.out_features * bits) {
    return Invalid(module.name, "qzeros have the wrong shape");
  }
  return absl::OkStatus();
}

// Sets group_size, and group_index where it is not the usual one.
absl::Status DecodeGroups(checkpoints::CheckpointReader& reader,
                          const GptqModule& module,
                          formats::QuantizedLinear* linear) {
  const int64_t groups = linear->scales.size(1);
  const int64_t in = module.in_features;
  linear->group_size = (in + groups - 1) / groups;
  const std::string leaf = absl::StrCat(module.name, ".g_idx");
  if (reader.tensors().count(leaf) == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const at::Tensor index,
                   ReadTyped(reader, module.name, "g_idx", at::kInt));
  if (index.dim() != 1 || index.size(0) != in || index.min().item<int>() < 0 ||
      index.max().item<int>() >= groups) {
    return Invalid(module.name, "g_idx points outside the groups");
  }
  // A short last group leaves the size open: the first group's length says.
  const int64_t first = index.eq(0).sum().item<int64_t>();
  if (first > 0) linear->group_size = first;
  if (!index.equal(ConsecutiveGroups(in, linear->group_size))) {
    linear->group_index = index;
  }
  return absl::OkStatus();
}

}  // namespace

bool GptqHasWidth(int bits, GptqVersion version) {
  if (version == GptqVersion::kPlanar && (bits == 5 || bits == 6)) return true;
  return bits == 2 || bits == 3 || bits == 4 || bits == 8;
}

absl::StatusOr<checkpoints::TensorMap> EncodeGptq(
    const std::string& module, const formats::QuantizedLinear& linear,
    GptqVersion version) {
  ASSIGN_OR_RETURN(const formats::Format* format,
                   formats::FindFormat(linear.format));
  at::Tensor zeros = linear.zeros.t().contiguous();
  if (version == GptqVersion::kV1) {
    if (zeros.eq(0).any().item<bool>()) {
      return base::MakeError(
          absl::StatusCode::kInvalidArgument, "GPTQ_V1_ZERO_POINT",
          absl::StrCat(module,
                       " has a group whose zero point is 0, which "
                       "version v1 of the layout cannot hold; set the "
                       "export's version to v2"),
          {{"module", module}});
    }
    zeros = zeros.sub(1);
  }
  const at::Tensor scales = linear.scales.t().contiguous().to(at::kHalf);
  if (!scales.to(at::kFloat).equal(linear.scales.t())) {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "EXPORT_CANNOT_STORE",
        absl::StrCat(module, " has scales that are not float16 values"),
        {{"module", module}});
  }
  at::Tensor index = linear.group_index;
  if (!index.defined()) {
    index = ConsecutiveGroups(linear.in_features, linear.group_size);
  }
  const int bits = format->bits();
  return checkpoints::TensorMap{
      {absl::StrCat(module, ".qweight"),
       Pack(linear.codes, bits, version).t().contiguous()},
      {absl::StrCat(module, ".qzeros"), Pack(zeros, bits, version)},
      {absl::StrCat(module, ".scales"), scales},
      {absl::StrCat(module, ".g_idx"), index}};
}

absl::StatusOr<formats::QuantizedLinear> DecodeGptq(
    checkpoints::CheckpointReader& reader, const GptqModule& module,
    GptqVersion version) {
  ASSIGN_OR_RETURN(const at::Tensor qweight,
                   ReadTyped(reader, module.name, "qweight", at::kInt));
  ASSIGN_OR_RETURN(const int bits, WidthOf(qweight, module, version));
  ASSIGN_OR_RETURN(const at::Tensor qzeros,
                   ReadTyped(reader, module.name, "qzeros", at::kInt));
  ASSIGN_OR_RETURN(const at::Tensor scales,
                   reader.ReadFloat(absl::StrCat(module.name, ".scales")));
  RETURN_IF_ERROR(CheckGroups(module, qzeros, scales, bits));
  formats::QuantizedLinear linear;
  linear.format = absl::StrCat("int", bits);
  linear.out_features = module.out_features;
  linear.in_features = module.in_features;
  linear.codes = Unpack(qweight.t().contiguous(), bits, version);
  linear.scales = scales.t().contiguous();
  linear.zeros = DecodeZeros(qzeros, bits, version);
  linear.symmetric = linear.zeros.eq(1 << (bits - 1)).all().item<bool>();
  RETURN_IF_ERROR(DecodeGroups(reader, module, &linear));
  return linear;
}

}  // namespace quantd::exports
