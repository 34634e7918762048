// SPDX-License-Identifier: Apache-2.0
#include "tests/support/tiny_checkpoint.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"

namespace quantd::support {
namespace {

using Json = nlohmann::ordered_json;

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (!out) std::abort();
}

// Uniform in [-1, 1) from SplitMix64.
class Uniform {
 public:
  explicit Uniform(uint64_t seed) : state_(seed) {}
  float Next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return static_cast<float>(z >> 40) * 0x1p-23f - 1.0f;
  }

 private:
  uint64_t state_;
};

struct Tensor {
  std::vector<int64_t> shape;
  // Values are offset + spread * uniform.
  float offset = 0;
  float spread = 0;
};

// Ordered by name, which is the file order of tensors of one dtype.
std::map<std::string, Tensor> Tensors(const TinyLlama& m) {
  std::map<std::string, Tensor> tensors;
  // Unit variance in, unit variance out.
  const auto matrix = [&](const std::string& name, int64_t out, int64_t in) {
    tensors[name + ".weight"] = {
        {out, in}, 0, std::sqrt(3.0f / static_cast<float>(in))};
  };
  const auto norm = [&](const std::string& name) {
    tensors[name + ".weight"] = {{m.hidden}, 1.0f, 0.3f};
  };
  const int64_t head_dim = m.hidden / m.heads;
  tensors["model.embed_tokens.weight"] = {{m.vocab, m.hidden}, 0, 1.7f};
  for (int64_t i = 0; i < m.layers; ++i) {
    const std::string prefix = absl::StrCat("model.layers.", i, ".");
    norm(prefix + "input_layernorm");
    matrix(prefix + "self_attn.q_proj", m.heads * head_dim, m.hidden);
    matrix(prefix + "self_attn.k_proj", m.kv_heads * head_dim, m.hidden);
    matrix(prefix + "self_attn.v_proj", m.kv_heads * head_dim, m.hidden);
    matrix(prefix + "self_attn.o_proj", m.hidden, m.heads * head_dim);
    norm(prefix + "post_attention_layernorm");
    matrix(prefix + "mlp.gate_proj", m.intermediate, m.hidden);
    matrix(prefix + "mlp.up_proj", m.intermediate, m.hidden);
    matrix(prefix + "mlp.down_proj", m.hidden, m.intermediate);
  }
  norm("model.norm");
  if (!m.tied) matrix("lm_head", m.vocab, m.hidden);
  return tensors;
}

std::string Weights(const TinyLlama& model) {
  Json header;
  header["__metadata__"] = {{"format", "pt"}};
  Uniform uniform(model.seed);
  std::string values;
  for (const auto& [name, tensor] : Tensors(model)) {
    const size_t begin = values.size();
    int64_t count = 1;
    for (const int64_t dim : tensor.shape) count *= dim;
    for (int64_t i = 0; i < count; ++i) {
      const float value = tensor.offset + tensor.spread * uniform.Next();
      char bytes[sizeof(value)];
      std::memcpy(bytes, &value, sizeof(value));
      values.append(bytes, sizeof(bytes));
    }
    header[name] = {{"dtype", "F32"},
                    {"shape", tensor.shape},
                    {"data_offsets", {begin, values.size()}}};
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  uint64_t length = text.size();
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  return file + text + values;
}

std::string Config(const TinyLlama& m) {
  const Json config = {{"architectures", {"LlamaForCausalLM"}},
                       {"model_type", "llama"},
                       {"hidden_act", "silu"},
                       {"hidden_size", m.hidden},
                       {"intermediate_size", m.intermediate},
                       {"num_hidden_layers", m.layers},
                       {"num_attention_heads", m.heads},
                       {"num_key_value_heads", m.kv_heads},
                       {"max_position_embeddings", m.context},
                       {"rms_norm_eps", 1e-5},
                       {"rope_theta", 10000.0},
                       {"tie_word_embeddings", m.tied},
                       {"torch_dtype", "float32"},
                       {"vocab_size", m.vocab}};
  return config.dump(2) + "\n";
}

std::string Utf8(int code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | (code_point >> 6)),
          static_cast<char>(0x80 | (code_point & 0x3F))};
}

// Byte-level BPE without merges. GPT-2 writes a byte that is printable in
// Latin-1 as itself and the n-th of the others as U+0100 + n.
std::string Tokenizer() {
  Json vocab = Json::object();
  int others = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) ||
                           (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    vocab[Utf8(printable ? byte : 0x100 + others++)] = byte;
  }
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  const Json tokenizer = {{"version", "1.0"},
                          {"truncation", nullptr},
                          {"padding", nullptr},
                          {"added_tokens", Json::array()},
                          {"normalizer", nullptr},
                          {"pre_tokenizer", byte_level},
                          {"post_processor", nullptr},
                          {"decoder", byte_level},
                          {"model",
                           {{"type", "BPE"},
                            {"dropout", nullptr},
                            {"unk_token", nullptr},
                            {"continuing_subword_prefix", nullptr},
                            {"end_of_word_suffix", nullptr},
                            {"fuse_unk", false},
                            {"byte_fallback", false},
                            {"vocab", vocab},
                            {"merges", Json::array()}}}};
  return tokenizer.dump(2) + "\n";
}

}  // namespace

void WriteTinyLlama(const TinyLlama& model, const std::string& directory) {
  std::filesystem::create_directories(directory);
  WriteFile(directory + "/config.json", Config(model));
  WriteFile(directory + "/model.safetensors", Weights(model));
  if (model.vocab >= 256) WriteFile(directory + "/tokenizer.json", Tokenizer());
}

}  // namespace quantd::support
