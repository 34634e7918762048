// SPDX-License-Identifier: Apache-2.0
// The metadata of a GGUF file, read without any of the code under test.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

namespace quantd::tokenizers {

// Reads a well-formed file; throws std::out_of_range on one that is cut.
class GgufMetadata {
 public:
  static nlohmann::json Read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    GgufMetadata reader{std::string(std::istreambuf_iterator<char>(file), {})};
    reader.offset_ = 16;  // Magic, version and tensor count.
    nlohmann::json keys = nlohmann::json::object();
    for (auto left = reader.Number<uint64_t>(); left > 0; --left) {
      const std::string key = reader.String();
      keys[key] = reader.Value(reader.Number<uint32_t>());
    }
    return keys;
  }

 private:
  explicit GgufMetadata(std::string bytes) : bytes_(std::move(bytes)) {}

  template <typename T>
  T Number() {
    T value;
    memcpy(&value, &bytes_.at(offset_ + sizeof(T) - 1) - (sizeof(T) - 1),
           sizeof(T));
    offset_ += sizeof(T);
    return value;
  }

  std::string String() {
    const auto size = Number<uint64_t>();
    const std::string text = bytes_.substr(offset_, size);
    offset_ += size;
    return text;
  }

  nlohmann::json Array() {
    const auto type = Number<uint32_t>();
    nlohmann::json values = nlohmann::json::array();
    for (auto left = Number<uint64_t>(); left > 0; --left) {
      values.push_back(Value(type));
    }
    return values;
  }

  nlohmann::json Value(uint32_t type) {
    switch (type) {
      case 0:
        return Number<uint8_t>();
      case 4:
        return Number<uint32_t>();
      case 5:
        return Number<int32_t>();
      case 6:
        return Number<float>();
      case 7:
        return Number<uint8_t>() != 0;
      case 8:
        return String();
      case 9:
        return Array();
      case 10:
        return Number<uint64_t>();
      default:
        ADD_FAILURE() << "GGUF type " << type;
        return nullptr;
    }
  }

  const std::string bytes_;
  size_t offset_ = 0;
};

}  // namespace quantd::tokenizers
