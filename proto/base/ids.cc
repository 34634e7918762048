// SPDX-License-Identifier: Apache-2.0
#include "proto/base/ids.h"

#include <openssl/rand.h>

#include <cstdint>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace quantd::base {
namespace {

class RealIdGenerator : public IdGenerator {
 public:
  std::string NewUuid() override {
    unsigned char bytes[16];
    RAND_bytes(bytes, sizeof(bytes));
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const std::string hex = absl::BytesToHexString(
        absl::string_view(reinterpret_cast<char*>(bytes), sizeof(bytes)));
    return absl::StrCat(hex.substr(0, 8), "-", hex.substr(8, 4), "-",
                        hex.substr(12, 4), "-", hex.substr(16, 4), "-",
                        hex.substr(20));
  }

  std::string NewJobId() override {
    constexpr char kAlphabet[] = "abcdefghijkmnpqrstuvwxyz23456789";
    unsigned char bytes[20];
    RAND_bytes(bytes, sizeof(bytes));
    std::string id;
    for (unsigned char byte : bytes) id += kAlphabet[byte % 32];
    return id;
  }
};

}  // namespace

IdGenerator& IdGenerator::Real() {
  static RealIdGenerator* generator = new RealIdGenerator;
  return *generator;
}

}  // namespace quantd::base
