// SPDX-License-Identifier: Apache-2.0
#include "worker/steps/block_file.h"

#include <ATen/ops/empty.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/exports/code_packing.h"
#include "worker/formats/format.h"

namespace quantd::steps {
namespace {

using checkpoints::TensorMap;

// Places in "<module>.layout", int64.
enum Layout { kOut, kIn, kGroupSize, kSymmetric, kGroupAxis, kLayoutSize };

// Followed by the name of one of QuantizedLinear::parts.
constexpr char kPartPrefix[] = ".part.";

absl::Status Damaged(const std::string& module) {
  return base::MakeError(
      absl::StatusCode::kDataLoss, "STEP_FILE_DAMAGED",
      absl::StrCat("the committed weights of ", module, " cannot be read"),
      {{"module", module}});
}

at::Tensor TextTensor(const std::string& text) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(text.size())}, at::kByte);
  std::memcpy(tensor.mutable_data_ptr(), text.data(), text.size());
  return tensor;
}

std::string TextOf(const at::Tensor& tensor) {
  return std::string(static_cast<const char*>(tensor.const_data_ptr()),
                     tensor.numel());
}

at::Tensor LayoutTensor(const formats::QuantizedLinear& linear) {
  at::Tensor tensor = at::empty({kLayoutSize}, at::kLong);
  int64_t* layout = tensor.mutable_data_ptr<int64_t>();
  layout[kOut] = linear.out_features;
  layout[kIn] = linear.in_features;
  layout[kGroupSize] = linear.group_size;
  layout[kSymmetric] = linear.symmetric ? 1 : 0;
  layout[kGroupAxis] = linear.group_axis;
  return tensor;
}

absl::Status AddModule(const std::string& name,
                       const formats::QuantizedLinear& linear,
                       TensorMap* tensors) {
  ASSIGN_OR_RETURN(const formats::Format* format,
                   formats::FindFormat(linear.format));
  const bool whole_words = linear.in_features % exports::kCodesPerChunk == 0;
  (*tensors)[absl::StrCat(name, ".codes")] =
      whole_words ? exports::PackRows(linear.codes, format->bits())
                  : linear.codes;
  (*tensors)[absl::StrCat(name, ".format")] = TextTensor(linear.format);
  (*tensors)[absl::StrCat(name, ".layout")] = LayoutTensor(linear);
  (*tensors)[absl::StrCat(name, ".scales")] = linear.scales;
  if (linear.zeros.defined()) {
    (*tensors)[absl::StrCat(name, ".zeros")] = linear.zeros;
  }
  if (linear.offsets.defined()) {
    (*tensors)[absl::StrCat(name, ".offsets")] = linear.offsets;
  }
  for (const auto& [part, tensor] : linear.parts) {
    (*tensors)[absl::StrCat(name, kPartPrefix, part)] = tensor;
  }
  if (linear.group_index.defined()) {
    (*tensors)[absl::StrCat(name, ".group_index")] = linear.group_index;
  }
  return absl::OkStatus();
}

// The named part of a module; undefined where it is absent.
at::Tensor Part(const TensorMap& tensors, const std::string& module,
                const std::string& part) {
  const auto found = tensors.find(absl::StrCat(module, ".", part));
  return found == tensors.end() ? at::Tensor() : found->second;
}

std::map<std::string, at::Tensor> PartsOf(const TensorMap& tensors,
                                          const std::string& module) {
  const std::string prefix = absl::StrCat(module, kPartPrefix);
  std::map<std::string, at::Tensor> parts;
  for (auto it = tensors.lower_bound(prefix); it != tensors.end(); ++it) {
    absl::string_view name = it->first;
    if (!absl::ConsumePrefix(&name, prefix)) break;
    parts[std::string(name)] = it->second;
  }
  return parts;
}

absl::StatusOr<formats::QuantizedLinear> ReadModule(const TensorMap& tensors,
                                                    const std::string& name) {
  const at::Tensor layout = Part(tensors, name, "layout");
  const at::Tensor text = Part(tensors, name, "format");
  formats::QuantizedLinear linear;
  linear.codes = Part(tensors, name, "codes");
  linear.scales = Part(tensors, name, "scales");
  linear.zeros = Part(tensors, name, "zeros");
  linear.offsets = Part(tensors, name, "offsets");
  linear.group_index = Part(tensors, name, "group_index");
  if (!text.defined() || !linear.codes.defined() || !linear.scales.defined() ||
      !layout.defined() || layout.scalar_type() != at::kLong ||
      layout.numel() != kLayoutSize) {
    return Damaged(name);
  }
  linear.parts = PartsOf(tensors, name);
  const int64_t* values = layout.const_data_ptr<int64_t>();
  linear.format = TextOf(text);
  linear.out_features = values[kOut];
  linear.in_features = values[kIn];
  linear.group_size = values[kGroupSize];
  linear.symmetric = values[kSymmetric] != 0;
  linear.group_axis = values[kGroupAxis];
  if (linear.codes.scalar_type() == at::kInt) {
    ASSIGN_OR_RETURN(const formats::Format* format,
                     formats::FindFormat(linear.format));
    linear.codes = exports::UnpackRows(linear.codes, format->bits());
  }
  if (linear.codes.dim() != 2 || linear.codes.size(0) != linear.out_features ||
      linear.codes.size(1) != linear.in_features) {
    return Damaged(name);
  }
  return linear;
}

}  // namespace

absl::StatusOr<TensorMap> ModuleTensors(const QuantizedModules& modules) {
  TensorMap tensors;
  for (const auto& [name, linear] : modules) {
    RETURN_IF_ERROR(AddModule(name, linear, &tensors));
  }
  return tensors;
}

absl::StatusOr<QuantizedModules> ModulesOf(const TensorMap& tensors) {
  QuantizedModules modules;
  for (const auto& [key, tensor] : tensors) {
    absl::string_view name = key;
    if (!absl::ConsumeSuffix(&name, ".layout")) continue;
    const std::string module(name);
    ASSIGN_OR_RETURN(modules[module], ReadModule(tensors, module));
  }
  return modules;
}

absl::Status WriteBlockFile(const std::string& path,
                            const QuantizedModules& modules) {
  ASSIGN_OR_RETURN(const TensorMap tensors, ModuleTensors(modules));
  return checkpoints::WriteSafetensors(path, tensors);
}

absl::StatusOr<QuantizedModules> ReadBlockFile(const std::string& path) {
  ASSIGN_OR_RETURN(const TensorMap tensors, checkpoints::ReadSafetensors(path));
  return ModulesOf(tensors);
}

}  // namespace quantd::steps
