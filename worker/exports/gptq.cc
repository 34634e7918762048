// SPDX-License-Identifier: Apache-2.0
// The checkpoint layout of AutoGPTQ and GPTQModel, which transformers, vLLM and
// SGLang load.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/glob.h"
#include "worker/exports/checkpoint_files.h"
#include "worker/exports/code_packing.h"
#include "worker/exports/export.h"
#include "worker/exports/gptq_layout.h"

namespace quantd::exports {
namespace {

constexpr int64_t kBytesPerMebibyte = int64_t{1} << 20;

absl::Status CannotStore(const PlannedModule& module, absl::string_view why,
                         absl::string_view instead) {
  return base::MakeError(absl::StatusCode::kInvalidArgument,
                         "EXPORT_CANNOT_STORE",
                         absl::StrCat("export gptq cannot store ", module.name,
                                      ": ", why, "; ", instead),
                         {{"module", module.name}, {"export", "gptq"}});
}

class GptqExport : public Export {
 public:
  GptqExport(std::string version, int64_t max_shard_bytes)
      : version_(std::move(version)), max_shard_bytes_(max_shard_bytes) {}

  absl::Status CheckModule(const PlannedModule& module) const override;

  absl::StatusOr<std::vector<std::string>> Write(
      const ExportSource& source, const std::string& directory) const override;

 private:
  // The version for a checkpoint that has modules of `widths`. "auto" is v1,
  // which more readers know, unless zero points are chosen or only planes hold
  // a width.
  GptqVersion VersionFor(bool symmetric, const std::set<int>& widths) const;

  const std::string version_;
  const int64_t max_shard_bytes_;
};

// The bits of the modules that are quantized.
std::set<int> WidthsOf(const ExportSource& source) {
  std::set<int> widths;
  for (const std::string& module : source.quantized_modules) {
    const auto format = formats::FindFormat(
        spec::SettingsFor(source.recipe, module).weights.format());
    if (format.ok()) widths.insert((*format)->bits());
  }
  return widths;
}

GptqVersion GptqExport::VersionFor(bool symmetric,
                                   const std::set<int>& widths) const {
  if (version_ == "v1") return GptqVersion::kV1;
  if (version_ == "v2") return GptqVersion::kV2;
  for (const int bits : widths) {
    if (!GptqHasWidth(bits, GptqVersion::kV2)) return GptqVersion::kPlanar;
  }
  return symmetric ? GptqVersion::kV1 : GptqVersion::kV2;
}

absl::Status GptqExport::CheckModule(const PlannedModule& module) const {
  constexpr absl::string_view kDequantized = "use export dequantized";
  ASSIGN_OR_RETURN(const formats::Format* format,
                   formats::FindFormat(module.spec.format));
  const int bits = format->bits();
  if (!GptqHasWidth(bits, VersionFor(module.spec.symmetric, {bits}))) {
    return CannotStore(
        module,
        absl::StrCat("it has ", bits,
                     "-bit codes and the layout has no place "
                     "for them in version ",
                     version_),
        "set the export's version to auto, or use export dequantized");
  }
  const int64_t in = module.in_features;
  const int64_t group = module.spec.GroupSizeFor(in);
  if (in % kCodesPerChunk != 0 || module.out_features % kCodesPerChunk != 0) {
    return CannotStore(
        module,
        absl::StrCat("its shape ", module.out_features, " x ", in,
                     " is not a multiple of 32 both ways"),
        absl::StrCat("skip it with an override, or ", kDequantized));
  }
  if (in % group != 0) {
    return CannotStore(
        module,
        absl::StrCat("its ", in, " inputs are no multiple of group size ",
                     group),
        absl::StrCat("use a group size that divides ", in, ", such as 32"));
  }
  if (module.spec.scale_dtype != "float16") {
    return CannotStore(module, "the layout keeps scales in float16",
                       "set scale_dtype to float16");
  }
  if (module.tied_head) {
    return CannotStore(module, "it is the embedding matrix as well",
                       "keep the head in floating point");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> GptqExport::Write(
    const ExportSource& source, const std::string& directory) const {
  const GptqVersion version =
      VersionFor(source.recipe.weights().symmetric(), WidthsOf(source));
  std::map<std::string, GptqModuleSettings> settings;
  const EncodeModule encode = [&](const std::string& module,
                                  const formats::QuantizedLinear& linear)
      -> absl::StatusOr<checkpoints::TensorMap> {
    ASSIGN_OR_RETURN(const formats::Format* format,
                     formats::FindFormat(linear.format));
    const bool whole_row = linear.group_size >= linear.in_features;
    settings[module] = {format->bits(), whole_row ? -1 : linear.group_size,
                        linear.symmetric, linear.group_index.defined()};
    return EncodeGptq(module, linear, version);
  };
  ASSIGN_OR_RETURN(std::vector<std::string> files,
                   WriteWeights(source, directory, max_shard_bytes_, encode));
  ASSIGN_OR_RETURN(const std::vector<std::string> companions,
                   WriteCompanions(source, directory));
  files.insert(files.end(), companions.begin(), companions.end());
  const nlohmann::json quantization = MakeGptqConfig(source, version, settings);
  nlohmann::json config = ExportedConfig(source);
  config["quantization_config"] = quantization;
  RETURN_IF_ERROR(WriteJson(directory, "config.json", config));
  RETURN_IF_ERROR(WriteJson(directory, "quantize_config.json", quantization));
  files.push_back("config.json");
  files.push_back("quantize_config.json");
  std::sort(files.begin(), files.end());
  return files;
}

std::unique_ptr<Export> Make(const spec::Params& params) {
  return std::make_unique<GptqExport>(
      params.GetString("version"),
      params.GetInt("max_shard_mib") * kBytesPerMebibyte);
}

bool Reads(const nlohmann::json& config) {
  const auto found = config.find("quantization_config");
  if (found == config.end() || !found->is_object()) return false;
  const auto method = found->find("quant_method");
  return method != found->end() && *method == "gptq";
}

v1::Requirement FormatRequirement(absl::string_view property,
                                  absl::string_view when, absl::string_view why,
                                  absl::string_view suggestion) {
  v1::Requirement requirement;
  requirement.set_seam(v1::SEAM_FORMAT);
  requirement.set_property(std::string(property));
  requirement.set_when(std::string(when));
  requirement.set_why(std::string(why));
  requirement.set_suggestion(std::string(suggestion));
  return requirement;
}

}  // namespace

ExportEntry MakeGptqEntry() {
  ExportEntry entry;
  v1::ComponentEntry& description = entry.description;
  description.set_seam(v1::SEAM_EXPORT);
  description.set_id("gptq");
  description.set_summary(
      "Packed integer weights in the GPTQ layout, for transformers, vLLM and "
      "SGLang.");
  description.set_reference("docs/exports/gptq.md");
  // What is written where a recipe names no export.
  description.add_provides("default");
  *description.add_params() = spec::StringParameter(
      "version", "auto", {"auto", "v1", "v2"},
      "How zero points are stored; auto is v1 for symmetric weights and v2 "
      "otherwise, and gptq_p where a module has 5 or 6 bits.");
  *description.add_params() = spec::IntParameter(
      "max_shard_mib", 2048, 1, 1 << 20,
      "Weights are split into files of at most this many MiB.");
  *description.add_requirements() = FormatRequirement(
      "symmetric", "version=v1", "v1 stores zero - 1 and has no place for 0",
      "use version=v2 of the export, or symmetric weights");
  *description.add_requirements() = FormatRequirement(
      "gptq_layout", "", "the layout holds integers only",
      "use an integer format such as int4, or the export dequantized");
  for (const char* version : {"version=v1", "version=v2"}) {
    *description.add_requirements() = FormatRequirement(
        "gptq_stream", version, "it holds integers of 2, 3, 4 and 8 bits only",
        "use version=auto of the export, which packs 5 and 6 bits in planes, "
        "or int2, int3, int4 or int8");
  }
  entry.make = &Make;
  entry.reads = &Reads;
  entry.open = &OpenGptq;
  return entry;
}

}  // namespace quantd::exports
