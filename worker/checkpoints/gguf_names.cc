// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoints/gguf_names.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/base/status_macros.h"

namespace quantd::checkpoints {
namespace {

using Json = nlohmann::json;

struct Architecture {
  const char* id;  // Of GGUF, and the model_type of config.json.
  const char* class_name;
  // The converter reorders rows of queries and keys for interleaved rope.
  bool interleaved;
};

constexpr Architecture kArchitectures[] = {
    {"llama", "LlamaForCausalLM", true},
    {"qwen2", "Qwen2ForCausalLM", false},
    {"qwen3", "Qwen3ForCausalLM", false},
};

struct NamePair {
  const char* gguf;
  const char* hugging_face;
};

constexpr NamePair kModelNames[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
};

constexpr NamePair kBlockNames[] = {
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
};

const Architecture* FindArchitecture(const std::string& id) {
  for (const Architecture& architecture : kArchitectures) {
    if (id == architecture.id) return &architecture;
  }
  return nullptr;
}

// "blk.3.attn_q.weight" in its parts.
struct BlockName {
  int block = 0;
  std::string module;
  std::string suffix;  // ".weight" or ".bias".
};

bool ParseBlockName(const std::string& name, BlockName* parsed) {
  constexpr absl::string_view kPrefix = "blk.";
  if (!absl::StartsWith(name, kPrefix)) return false;
  const size_t dot = name.find('.', kPrefix.size());
  const size_t last = name.rfind('.');
  if (dot == name.npos || last <= dot) return false;
  if (!absl::SimpleAtoi(name.substr(kPrefix.size(), dot - kPrefix.size()),
                        &parsed->block)) {
    return false;
  }
  parsed->module = name.substr(dot + 1, last - dot - 1);
  parsed->suffix = name.substr(last);
  return true;
}

const GgufTensor* FindTensor(const GgufHeader& header,
                             const std::string& name) {
  for (const GgufTensor& tensor : header.tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

// A number of the architecture, under its prefix. Wrong types are left to
// whoever reads the config: here only presence matters.
class Keys {
 public:
  Keys(const Json& metadata, std::string prefix)
      : metadata_(metadata), prefix_(std::move(prefix)) {}

  Json Get(const std::string& key) const {
    const auto found = metadata_.find(prefix_ + key);
    return found == metadata_.end() ? Json() : *found;
  }
  absl::StatusOr<Json> Need(const std::string& key) const {
    Json value = Get(key);
    if (value.is_number()) return value;
    return RefuseGguf("GGUF_METADATA",
                      absl::StrCat("the key ", prefix_, key,
                                   " is missing or no single number"));
  }

 private:
  const Json& metadata_;
  const std::string prefix_;
};

// The divisors that the llama3 rule gives; section 6.3 of the format's page.
std::vector<float> Llama3Divisors(double theta, size_t count, double factor,
                                  double original) {
  std::vector<float> divisors;
  for (size_t i = 0; i < count; ++i) {
    const double wavelength =
        2.0 * std::numbers::pi *
        std::pow(theta, static_cast<double>(i) / static_cast<double>(count));
    const double t = std::clamp((original / wavelength - 1.0) / 3.0, 0.0, 1.0);
    divisors.push_back(static_cast<float>(1.0 / ((1.0 - t) / factor + t)));
  }
  return divisors;
}

// The published models all have these; other divisors are passed on as they
// are.
Json RopeOfDivisors(double theta, const std::vector<float>& divisors) {
  constexpr double kOriginalContext = 8192;
  constexpr float kTolerance = 1e-4f;
  const double factor = divisors.back();
  const std::vector<float> expected =
      Llama3Divisors(theta, divisors.size(), factor, kOriginalContext);
  const bool llama3 = std::equal(
      divisors.begin(), divisors.end(), expected.begin(),
      [](float a, float b) { return std::abs(a - b) <= kTolerance * b; });
  if (!llama3) return {{"rope_type", "divisors"}, {"divisors", divisors}};
  return {{"rope_type", "llama3"},
          {"factor", factor},
          {"low_freq_factor", 1.0},
          {"high_freq_factor", 4.0},
          {"original_max_position_embeddings",
           static_cast<int64_t>(kOriginalContext)}};
}

Json RopeScaling(const Keys& keys, double theta,
                 const std::vector<float>& divisors) {
  if (!divisors.empty()) return RopeOfDivisors(theta, divisors);
  const Json type = keys.Get("rope.scaling.type");
  if (!type.is_string() || type == "none") return nullptr;
  Json scaling = {{"rope_type", type}};
  const Json factor = keys.Get("rope.scaling.factor");
  if (!factor.is_null()) scaling["factor"] = factor;
  const Json original = keys.Get("rope.scaling.original_context_length");
  if (!original.is_null()) {
    scaling["original_max_position_embeddings"] = original;
  }
  return scaling;
}

absl::StatusOr<Json> SharedConfig(const Keys& keys) {
  const std::pair<const char*, const char*> needed[] = {
      {"hidden_size", "embedding_length"},
      {"num_hidden_layers", "block_count"},
      {"intermediate_size", "feed_forward_length"},
      {"num_attention_heads", "attention.head_count"},
      {"max_position_embeddings", "context_length"},
      {"rms_norm_eps", "attention.layer_norm_rms_epsilon"}};
  Json config;
  for (const auto& [name, key] : needed) {
    ASSIGN_OR_RETURN(config[name], keys.Need(key));
  }
  const std::pair<const char*, const char*> optional[] = {
      {"num_key_value_heads", "attention.head_count_kv"},
      {"head_dim", "attention.key_length"}};
  for (const auto& [name, key] : optional) {
    const Json value = keys.Get(key);
    if (!value.is_null()) config[name] = value;
  }
  const Json theta = keys.Get("rope.freq_base");
  config["rope_theta"] = theta.is_number() ? theta : Json(10000.0);
  return config;
}

void AddTokens(const Json& metadata, Json* config) {
  for (const char* name : {"bos_token_id", "eos_token_id"}) {
    const auto found = metadata.find(absl::StrCat("tokenizer.ggml.", name));
    if (found != metadata.end()) (*config)[name] = *found;
  }
}

}  // namespace

std::string HuggingFaceName(const std::string& gguf_name) {
  BlockName block;
  if (ParseBlockName(gguf_name, &block)) {
    for (const NamePair& pair : kBlockNames) {
      if (block.module != pair.gguf) continue;
      return absl::StrCat("model.layers.", block.block, ".", pair.hugging_face,
                          block.suffix);
    }
    return gguf_name;
  }
  const size_t dot = gguf_name.rfind('.');
  for (const NamePair& pair : kModelNames) {
    if (dot != gguf_name.npos && gguf_name.substr(0, dot) == pair.gguf) {
      return pair.hugging_face + gguf_name.substr(dot);
    }
  }
  return gguf_name;
}

int64_t InterleavedHeads(const Json& config, const std::string& architecture,
                         const std::string& gguf_name) {
  const Architecture* found = FindArchitecture(architecture);
  BlockName block;
  if (found == nullptr || !found->interleaved ||
      !ParseBlockName(gguf_name, &block)) {
    return 0;
  }
  if (block.module == "attn_q") {
    return config.value("num_attention_heads", int64_t{0});
  }
  if (block.module != "attn_k") return 0;
  return config.value("num_key_value_heads",
                      config.value("num_attention_heads", int64_t{0}));
}

absl::StatusOr<Json> MakeGgufConfig(const GgufHeader& header,
                                    const std::vector<float>& rope_divisors) {
  const auto id = header.metadata.find("general.architecture");
  const std::string name = id != header.metadata.end() && id->is_string()
                               ? id->get<std::string>()
                               : "";
  const Architecture* architecture = FindArchitecture(name);
  const Keys keys(header.metadata, absl::StrCat(name, "."));
  const Json experts = keys.Get("expert_count");
  if (architecture == nullptr || (experts.is_number() && experts != 0)) {
    return RefuseGguf(
        "GGUF_ARCHITECTURE",
        absl::StrCat("the architecture \"", name.substr(0, 40),
                     experts.is_number() ? "\" with experts" : "\"",
                     " is not read; dense ",
                     absl::StrJoin(kArchitectures, ", ",
                                   [](std::string* out, const auto& a) {
                                     absl::StrAppend(out, a.id);
                                   }),
                     " are"));
  }
  ASSIGN_OR_RETURN(Json config, SharedConfig(keys));
  config["architectures"] = Json::array({architecture->class_name});
  config["model_type"] = architecture->id;
  config["hidden_act"] = "silu";
  const Json scaling =
      RopeScaling(keys, config["rope_theta"].get<double>(), rope_divisors);
  if (!scaling.is_null()) config["rope_scaling"] = scaling;
  const GgufTensor* embedding = FindTensor(header, "token_embd.weight");
  if (embedding != nullptr) config["vocab_size"] = embedding->shape[0];
  config["tie_word_embeddings"] =
      FindTensor(header, "output.weight") == nullptr;
  config["attention_bias"] = FindTensor(header, "blk.0.attn_q.bias") != nullptr;
  config["mlp_bias"] = FindTensor(header, "blk.0.ffn_gate.bias") != nullptr;
  AddTokens(header.metadata, &config);
  return config;
}

}  // namespace quantd::checkpoints
