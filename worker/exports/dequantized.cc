// SPDX-License-Identifier: Apache-2.0
// Plain safetensors with the quantized values written out as floating point:
// loads everywhere, saves nothing.
#include <ATen/ops/isfinite.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/exports/checkpoint_files.h"
#include "worker/exports/export.h"

namespace quantd::exports {
namespace {

constexpr int64_t kBytesPerMebibyte = int64_t{1} << 20;

at::ScalarType StorageType(const std::string& dtype) {
  if (dtype == "float16") return at::kHalf;
  if (dtype == "float32") return at::kFloat;
  return at::kBFloat16;
}

class DequantizedExport : public Export {
 public:
  DequantizedExport(at::ScalarType dtype, int64_t max_shard_bytes)
      : dtype_(dtype), max_shard_bytes_(max_shard_bytes) {}

  // Floating point holds every grid and every shape.
  absl::Status CheckModule(const PlannedModule&) const override {
    return absl::OkStatus();
  }

  at::Tensor StoredWeight(const formats::QuantizedLinear& linear,
                          const numerics::Rotation* rotation) const override {
    return Rounded(linear, rotation).to(at::kFloat);
  }

  absl::StatusOr<std::vector<std::string>> Write(
      const ExportSource& source, const std::string& directory) const override {
    const EncodeModule encode = [&](const std::string& module,
                                    const formats::QuantizedLinear& linear) {
      const auto rotation = source.input_rotations.find(module);
      return Encode(module, linear,
                    rotation == source.input_rotations.end()
                        ? nullptr
                        : &rotation->second);
    };
    ASSIGN_OR_RETURN(std::vector<std::string> files,
                     WriteWeights(source, directory, max_shard_bytes_, encode));
    ASSIGN_OR_RETURN(const std::vector<std::string> companions,
                     WriteCompanions(source, directory));
    files.insert(files.end(), companions.begin(), companions.end());
    RETURN_IF_ERROR(
        WriteJson(directory, "config.json", ExportedConfig(source)));
    files.push_back("config.json");
    std::sort(files.begin(), files.end());
    return files;
  }

 private:
  // As it is written.
  at::Tensor Rounded(const formats::QuantizedLinear& linear,
                     const numerics::Rotation* rotation) const {
    const at::Tensor weight = formats::Dequantize(linear);
    return rotation == nullptr ? weight.to(dtype_)
                               : rotation->UndoOnWeight(weight, dtype_);
  }

  absl::StatusOr<checkpoints::TensorMap> Encode(
      const std::string& module, const formats::QuantizedLinear& linear,
      const numerics::Rotation* rotation) const {
    const at::Tensor weight = Rounded(linear, rotation);
    // 65504 is the largest half: a wide scale can pass it.
    if (!at::isfinite(weight).all().item<bool>()) {
      return base::MakeError(
          absl::StatusCode::kInvalidArgument, "EXPORT_CANNOT_STORE",
          absl::StrCat("the weights of ", module,
                       " do not fit float16; set the export's dtype to "
                       "bfloat16"),
          {{"module", module}});
    }
    return checkpoints::TensorMap{{absl::StrCat(module, ".weight"), weight}};
  }

  const at::ScalarType dtype_;
  const int64_t max_shard_bytes_;
};

std::unique_ptr<Export> Make(const spec::Params& params) {
  return std::make_unique<DequantizedExport>(
      StorageType(params.GetString("dtype")),
      params.GetInt("max_shard_mib") * kBytesPerMebibyte);
}

bool Reads(const nlohmann::json& config) {
  const auto found = config.find("quantization_config");
  return found == config.end() || found->is_null();
}

absl::StatusOr<std::unique_ptr<models::LinearLoader>> OpenDense(
    checkpoints::CheckpointReader& reader, at::Device device) {
  return models::MakeDenseLoader(reader, device);
}

}  // namespace

ExportEntry MakeDequantizedEntry() {
  ExportEntry entry;
  v1::ComponentEntry& description = entry.description;
  description.set_seam(v1::SEAM_EXPORT);
  description.set_id("dequantized");
  description.set_summary(
      "Plain safetensors with the quantized weights written as floating "
      "point.");
  description.set_reference("docs/exports/dequantized.md");
  description.add_provides("fractional_zero");
  description.add_provides("rotated_inputs");
  *description.add_params() = spec::StringParameter(
      "dtype", "bfloat16", {"bfloat16", "float16", "float32"},
      "The type quantized weights are written in; only float32 is exact.");
  *description.add_params() = spec::IntParameter(
      "max_shard_mib", 2048, 1, 1 << 20,
      "Weights are split into files of at most this many MiB.");
  entry.make = &Make;
  entry.reads = &Reads;
  entry.open = &OpenDense;
  return entry;
}

}  // namespace quantd::exports
