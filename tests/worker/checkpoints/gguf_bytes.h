// SPDX-License-Identifier: Apache-2.0
// GGUF files made by hand, sound or not.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace quantd::checkpoints {

// Little-endian bytes of a number.
template <typename T>
std::string Raw(T value) {
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  return bytes;
}

inline std::string RawString(const std::string& text) {
  return Raw<uint64_t>(text.size()) + text;
}

// Type ids of metadata values.
constexpr uint32_t kGgufUint32 = 4;
constexpr uint32_t kGgufFloat32 = 6;
constexpr uint32_t kGgufString = 8;
constexpr uint32_t kGgufArray = 9;

// Collects metadata and tensors; everything can be made wrong on the way.
class GgufBuilder {
 public:
  GgufBuilder& Key(const std::string& key, uint32_t type,
                   const std::string& value) {
    keys_ += RawString(key) + Raw(type) + value;
    ++num_keys_;
    return *this;
  }
  GgufBuilder& Int(const std::string& key, uint32_t value) {
    return Key(key, kGgufUint32, Raw(value));
  }
  GgufBuilder& Float(const std::string& key, float value) {
    return Key(key, kGgufFloat32, Raw(value));
  }
  GgufBuilder& Text(const std::string& key, const std::string& value) {
    return Key(key, kGgufString, RawString(value));
  }

  // `dims` with the innermost first. The tensor begins where the one before
  // ended, padded to 32 bytes, plus `shift`.
  GgufBuilder& Tensor(const std::string& name, const std::vector<int64_t>& dims,
                      uint32_t type, const std::string& data,
                      uint64_t shift = 0) {
    infos_ += RawString(name) + Raw(static_cast<uint32_t>(dims.size()));
    for (const int64_t dim : dims) infos_ += Raw(dim);
    infos_ += Raw(type) + Raw<uint64_t>(data_.size() + shift);
    ++num_tensors_;
    data_ += data;
    data_.resize((data_.size() + 31) / 32 * 32);
    return *this;
  }

  std::string Build(uint32_t version = 3) const {
    std::string bytes = "GGUF" + Raw(version) + Raw(num_tensors_) +
                        Raw(num_keys_) + keys_ + infos_;
    bytes.resize((bytes.size() + 31) / 32 * 32);
    return bytes + data_;
  }

 private:
  uint64_t num_keys_ = 0;
  uint64_t num_tensors_ = 0;
  std::string keys_;
  std::string infos_;
  std::string data_;
};

// The metadata that a llama needs: 2 heads of 4 values, 1 key-value head.
inline GgufBuilder LlamaMetadata() {
  GgufBuilder builder;
  builder.Text("general.architecture", "llama")
      .Int("llama.context_length", 64)
      .Int("llama.embedding_length", 8)
      .Int("llama.block_count", 1)
      .Int("llama.feed_forward_length", 16)
      .Int("llama.attention.head_count", 2)
      .Int("llama.attention.head_count_kv", 1)
      .Float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  return builder;
}

}  // namespace quantd::checkpoints
