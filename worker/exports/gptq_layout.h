// SPDX-License-Identifier: Apache-2.0
// The GPTQ checkpoint layout, both ways: qweight, qzeros, scales and g_idx per
// linear, and the quantization_config that describes them. docs/exports/gptq.md
// has the bytes.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "worker/checkpoints/reader.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/exports/export.h"
#include "worker/formats/quantized_linear.h"
#include "worker/models/linear.h"

namespace quantd::exports {

// How zero points are stored: kV1 keeps zero - 1 and cannot hold 0. kPlanar
// ("gptq_p") is kV2 with codes and zero points packed in planes.
enum class GptqVersion { kV1, kV2, kPlanar };

// 2, 3, 4 and 8, the widths that every reader of the layout knows; kPlanar has
// 5 and 6 besides.
bool GptqHasWidth(int bits, GptqVersion version);

// The four tensors of `module`. INVALID_ARGUMENT, GPTQ_V1_ZERO_POINT or
// EXPORT_CANNOT_STORE.
absl::StatusOr<checkpoints::TensorMap> EncodeGptq(
    const std::string& module, const formats::QuantizedLinear& linear,
    GptqVersion version);

// Reads the tensors of `module` back; they come from strangers. NOT_FOUND,
// TENSOR_MISSING; INVALID_ARGUMENT, GPTQ_TENSOR_INVALID or TENSOR_SHAPE.
struct GptqModule {
  std::string name;
  int64_t out_features = 0;
  int64_t in_features = 0;
};
absl::StatusOr<formats::QuantizedLinear> DecodeGptq(
    checkpoints::CheckpointReader& reader, const GptqModule& module,
    GptqVersion version);

// What the config says of one quantized module.
struct GptqModuleSettings {
  int bits = 0;
  // -1: one group per row.
  int64_t group_size = 0;
  bool symmetric = true;
  // Groups follow the activation order, as g_idx says.
  bool act_order = false;

  bool operator==(const GptqModuleSettings&) const = default;
};

// The quantization_config of what was written, by module name.
nlohmann::json MakeGptqConfig(
    const ExportSource& source, GptqVersion version,
    const std::map<std::string, GptqModuleSettings>& modules);

// A loader over `reader`, which outlives it. INVALID_ARGUMENT, GPTQ_CONFIG, for
// a quantization_config that cannot be right.
absl::StatusOr<std::unique_ptr<models::LinearLoader>> OpenGptq(
    checkpoints::CheckpointReader& reader, at::Device device);

}  // namespace quantd::exports
