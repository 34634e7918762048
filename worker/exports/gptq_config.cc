// SPDX-License-Identifier: Apache-2.0
// The quantization_config of the GPTQ layout: written in full, because readers
// differ in their defaults.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "worker/exports/gptq_layout.h"
#include "worker/formats/format.h"

namespace quantd::exports {
namespace {

GptqModuleSettings DefaultSettings(const v1::WeightFormat& weights,
                                   bool act_order) {
  GptqModuleSettings settings;
  const auto format = formats::FindFormat(weights.format());
  settings.bits = format.ok() ? (*format)->bits() : 0;
  settings.group_size = weights.group_size() > 0 ? weights.group_size() : -1;
  settings.symmetric = weights.symmetric();
  settings.act_order = act_order;
  return settings;
}

// A module whose only group is its row is the same under -1 and its width.
bool SameGroups(const GptqModuleSettings& module,
                const GptqModuleSettings& common, int64_t in_features) {
  const auto effective = [in_features](int64_t group_size) {
    return group_size <= 0 ? in_features : group_size;
  };
  return effective(module.group_size) == effective(common.group_size);
}

// Rules are regular expressions matched from the start of the module's name.
std::string Pattern(const std::string& name) {
  return absl::StrCat("^", absl::StrReplaceAll(name, {{".", "\\."}}), "$");
}

// One rule per block linear that is not as the common settings say; "-:" leaves
// a module in floating point. The head has its own key.
nlohmann::json DynamicRules(
    const ExportSource& source, const GptqModuleSettings& common,
    const std::map<std::string, GptqModuleSettings>& modules) {
  nlohmann::json rules = nlohmann::json::object();
  for (int64_t block = 0; block < source.model.num_blocks(); ++block) {
    for (const models::LinearShape& shape : source.model.BlockLinears(block)) {
      const auto found = modules.find(shape.name);
      if (found == modules.end()) {
        rules[absl::StrCat("-:", Pattern(shape.name))] =
            nlohmann::json::object();
        continue;
      }
      const GptqModuleSettings& own = found->second;
      if (own.bits == common.bits && own.symmetric == common.symmetric &&
          SameGroups(own, common, shape.in_features)) {
        continue;
      }
      rules[absl::StrCat("+:", Pattern(shape.name))] = {
          {"bits", own.bits},
          {"group_size", own.group_size},
          {"sym", own.symmetric}};
    }
  }
  return rules;
}

std::string FormatName(GptqVersion version) {
  switch (version) {
    case GptqVersion::kV1:
      return "gptq";
    case GptqVersion::kV2:
      return "gptq_v2";
    case GptqVersion::kPlanar:
      return "gptq_p";
  }
  return "";
}

}  // namespace

nlohmann::json MakeGptqConfig(
    const ExportSource& source, GptqVersion version,
    const std::map<std::string, GptqModuleSettings>& modules) {
  const bool act_order =
      std::any_of(modules.begin(), modules.end(),
                  [](const auto& row) { return row.second.act_order; });
  const GptqModuleSettings common =
      DefaultSettings(source.recipe.weights(), act_order);
  const std::string format = FormatName(version);
  nlohmann::json config = {
      {"quant_method", "gptq"},
      {"method", "gptq"},
      {"bits", common.bits},
      {"group_size", common.group_size},
      {"desc_act", act_order},
      {"sym", common.symmetric},
      {"lm_head", modules.count(source.model.HeadShape().name) > 0},
      {"checkpoint_format", format},
      {"format", format},
      {"true_sequential", true},
      // Where groups were fixed beforehand g_idx is k / group_size, so readers
      // need not know.
      {"static_groups", false},
      {"pack_dtype", "int32"},
      {"meta", {{"quantizer", {"quantd:0.1.0"}}}}};
  const auto& params = source.recipe.method().params();
  const auto damp = params.find("percdamp");
  if (damp != params.end() && damp->second.double_value() > 0 &&
      damp->second.double_value() < 1) {
    config["damp_percent"] = damp->second.double_value();
  }
  nlohmann::json rules = DynamicRules(source, common, modules);
  if (!rules.empty()) config["dynamic"] = std::move(rules);
  return config;
}

}  // namespace quantd::exports
