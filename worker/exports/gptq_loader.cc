// SPDX-License-Identifier: Apache-2.0
// Reads checkpoints in the GPTQ layout, ours and those of other tools.
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/exports/gptq_layout.h"

namespace quantd::exports {
namespace {

absl::Status ConfigError(absl::string_view reason, absl::string_view message) {
  return base::MakeError(absl::StatusCode::kInvalidArgument, reason, message);
}

// Absent means v1: files that predate v2 carry no field.
absl::StatusOr<GptqVersion> ParseVersion(const nlohmann::json& config) {
  std::string format = "gptq";
  for (const char* key : {"format", "checkpoint_format"}) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null()) continue;
    if (!found->is_string()) {
      return ConfigError("GPTQ_CONFIG", absl::StrCat(key, " is not a string"));
    }
    format = absl::AsciiStrToLower(found->get<std::string>());
  }
  if (format == "gptq") return GptqVersion::kV1;
  if (format == "gptq_v2") return GptqVersion::kV2;
  if (format == "gptq_p") return GptqVersion::kPlanar;
  return ConfigError("GPTQ_CONFIG",
                     absl::StrCat("checkpoint_format \"", format.substr(0, 32),
                                  "\" is none of gptq, gptq_v2, gptq_p"));
}

class GptqLoader : public models::LinearLoader {
 public:
  GptqLoader(checkpoints::CheckpointReader& reader, GptqVersion version,
             at::Device device)
      : reader_(reader),
        version_(version),
        device_(device),
        dense_(models::MakeDenseLoader(reader, device)) {}

  // Modules without codes were left in floating point.
  absl::StatusOr<std::unique_ptr<models::Linear>> Load(const std::string& name,
                                                       int64_t out_features,
                                                       int64_t in_features,
                                                       bool has_bias) override {
    if (reader_.tensors().count(absl::StrCat(name, ".qweight")) == 0) {
      return dense_->Load(name, out_features, in_features, has_bias);
    }
    ASSIGN_OR_RETURN(
        const formats::QuantizedLinear linear,
        DecodeGptq(reader_, {name, out_features, in_features}, version_));
    at::Tensor bias;
    if (has_bias) {
      ASSIGN_OR_RETURN(bias, reader_.ReadFloat(absl::StrCat(name, ".bias")));
      if (bias.dim() != 1 || bias.size(0) != out_features) {
        return base::MakeError(
            absl::StatusCode::kInvalidArgument, "TENSOR_SHAPE",
            absl::StrCat(name, ".bias does not have ", out_features, " values"),
            {{"module", name}});
      }
    }
    return models::MakePackedLinear(linear, bias, device_);
  }

 private:
  checkpoints::CheckpointReader& reader_;
  const GptqVersion version_;
  const at::Device device_;
  const std::unique_ptr<models::LinearLoader> dense_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<models::LinearLoader>> OpenGptq(
    checkpoints::CheckpointReader& reader, at::Device device) {
  ASSIGN_OR_RETURN(const GptqVersion version,
                   ParseVersion(reader.config().at("quantization_config")));
  return std::make_unique<GptqLoader>(reader, version, device);
}

}  // namespace quantd::exports
