// SPDX-License-Identifier: Apache-2.0
// config.json: the strict JSON parser, then the shape for every family and the
// rope table of what was accepted.
#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "worker/checkpoints/strict_json.h"
#include "worker/models/families.h"
#include "worker/models/shape.h"

namespace quantd::models {
namespace {

void CheckFamily(const nlohmann::json& config, const FamilyTraits& family) {
  const auto shape = ReadShape(config, family);
  if (!shape.ok()) return;
  if (shape->heads % shape->kv_heads != 0 || shape->head_dim % 2 != 0 ||
      static_cast<int64_t>(shape->windows.size()) != shape->layers) {
    std::abort();
  }
  RopeTable(shape->rope, shape->head_dim, shape->context, at::kCPU).For(3);
}

}  // namespace
}  // namespace quantd::models

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = quantd::checkpoints::ParseStrictJson(
      absl::string_view(reinterpret_cast<const char*>(data), size),
      {.syntax_reason = "CONFIG_JSON", .what = "config.json"});
  if (!config.ok() || !config->is_object()) return 0;
  using quantd::models::CheckFamily;
  CheckFamily(*config, quantd::models::Llama());
  CheckFamily(*config, quantd::models::Mistral());
  CheckFamily(*config, quantd::models::Qwen2());
  CheckFamily(*config, quantd::models::Qwen3());
  return 0;
}
