// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/nearest.h"
#include "worker/exports/export.h"
#include "worker/exports/simulation_config.h"

namespace quantd::exports {

// One row per layout, alphabetical.
#define QUANTD_EXPORTS(ROW) \
  ROW(Dequantized)          \
  ROW(Gptq)

#define QUANTD_DECLARE(name) ExportEntry Make##name##Entry();
QUANTD_EXPORTS(QUANTD_DECLARE)
#undef QUANTD_DECLARE

const std::vector<ExportEntry>& Registry() {
#define QUANTD_ROW(name) Make##name##Entry(),
  static const auto& registry =
      *new std::vector<ExportEntry>{QUANTD_EXPORTS(QUANTD_ROW)};
#undef QUANTD_ROW
  return registry;
}

at::Tensor Export::StoredWeight(const formats::QuantizedLinear& linear,
                                const numerics::Rotation*) const {
  return formats::Dequantize(linear);
}

absl::StatusOr<std::unique_ptr<Export>> MakeExport(
    const v1::Component& component) {
  ASSIGN_OR_RETURN(const ExportEntry* entry,
                   spec::FindEntry(Registry(), "export", component.id()));
  ASSIGN_OR_RETURN(const spec::Params params,
                   spec::Params::Resolve(component, entry->description));
  return entry->make(params);
}

absl::StatusOr<std::unique_ptr<models::LinearLoader>> MakeLoader(
    checkpoints::CheckpointReader& reader, at::Device device) {
  for (const ExportEntry& entry : Registry()) {
    if (!entry.reads(reader.config())) continue;
    ASSIGN_OR_RETURN(auto loader, entry.open(reader, device));
    return WithSimulation(reader.config(), std::move(loader));
  }
  std::string method = "?";
  const auto quantization = reader.config().find("quantization_config");
  if (quantization != reader.config().end() && quantization->is_object()) {
    const auto found = quantization->find("quant_method");
    if (found != quantization->end() && found->is_string()) {
      method = found->get<std::string>().substr(0, 64);
    }
  }
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "QUANTIZATION_UNKNOWN",
      absl::StrCat("the checkpoint is quantized with \"", method,
                   "\", which this build cannot read"),
      {{"quant_method", method}});
}

}  // namespace quantd::exports
