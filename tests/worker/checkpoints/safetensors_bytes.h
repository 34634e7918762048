// SPDX-License-Identifier: Apache-2.0
// Safetensors files made by hand, sound or not.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>

namespace quantd::checkpoints {

// The header with its length before it and `data` behind it.
inline std::string SafetensorsBytes(const std::string& header,
                                    const std::string& data = "") {
  const uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + header + data;
}

inline void WriteBytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace quantd::checkpoints
