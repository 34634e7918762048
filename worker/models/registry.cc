// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/base/error.h"
#include "worker/models/decoder.h"
#include "worker/models/families.h"
#include "worker/models/model.h"

namespace quantd::models {
namespace {

FamilyEntry MakeEntry(const FamilyTraits& family) {
  FamilyEntry entry;
  entry.description.set_seam(v1::SEAM_FAMILY);
  entry.description.set_id(family.id);
  entry.description.set_summary(family.summary);
  entry.description.set_reference("docs/models.md");
  entry.matches = [id = family.id](const std::string& model_type) {
    return model_type == id;
  };
  entry.make = [family](checkpoints::CheckpointReader& reader,
                        LinearLoader& loader, at::Device device) {
    return MakeDecoder(family, reader, loader, device);
  };
  return entry;
}

}  // namespace

const std::vector<FamilyEntry>& Registry() {
  static const auto& registry = *new std::vector<FamilyEntry>{
      MakeEntry(Llama()), MakeEntry(Mistral()), MakeEntry(Mixtral()),
      MakeEntry(Olmoe()), MakeEntry(Qwen2()),   MakeEntry(Qwen2Moe()),
      MakeEntry(Qwen3()), MakeEntry(Qwen3Moe())};
  return registry;
}

absl::StatusOr<std::unique_ptr<Model>> MakeModel(
    checkpoints::CheckpointReader& reader, LinearLoader& loader,
    at::Device device) {
  const nlohmann::json& config = reader.config();
  const auto model_type = config.find("model_type");
  if (model_type == config.end() || !model_type->is_string()) {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "CONFIG_MISSING",
        "the checkpoint has no config.json with a \"model_type\"");
  }
  const std::string type = model_type->get<std::string>();
  for (const FamilyEntry& entry : Registry()) {
    if (entry.matches(type)) return entry.make(reader, loader, device);
  }
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "MODEL_FAMILY_UNKNOWN",
      absl::StrCat("no model family runs the model_type \"", type.substr(0, 80),
                   "\"; there are ",
                   absl::StrJoin(Registry(), ", ",
                                 [](std::string* out, const FamilyEntry& e) {
                                   absl::StrAppend(out, e.description.id());
                                 })));
}

}  // namespace quantd::models
