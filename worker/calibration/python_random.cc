// SPDX-License-Identifier: Apache-2.0
#include "worker/calibration/python_random.h"

#include <algorithm>
#include <bit>
#include <vector>

namespace quantd::calibration {
namespace {

// Constants of the reference implementation mt19937ar.
constexpr int kShift = 397;
constexpr uint32_t kMatrix = 0x9908b0df;
constexpr uint32_t kUpperBit = 0x80000000;
constexpr uint32_t kLowerBits = 0x7fffffff;

}  // namespace

PythonRandom::PythonRandom(uint64_t seed) {
  std::vector<uint32_t> key = {static_cast<uint32_t>(seed)};
  if (seed >> 32 != 0) key.push_back(static_cast<uint32_t>(seed >> 32));
  state_[0] = 19650218;
  for (uint32_t i = 1; i < kWords; ++i) {
    state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
  }
  const auto mixed = [this](int i) {
    return state_[i - 1] ^ (state_[i - 1] >> 30);
  };
  int i = 1;
  const auto advance = [&] {
    if (++i == kWords) {
      state_[0] = state_[kWords - 1];
      i = 1;
    }
  };
  uint32_t j = 0;
  const int rounds = std::max<int>(kWords, static_cast<int>(key.size()));
  for (int k = 0; k < rounds; ++k) {
    state_[i] = (state_[i] ^ (mixed(i) * 1664525u)) + key[j] + j;
    advance();
    j = (j + 1) % key.size();
  }
  for (int k = 0; k < kWords - 1; ++k) {
    state_[i] =
        (state_[i] ^ (mixed(i) * 1566083941u)) - static_cast<uint32_t>(i);
    advance();
  }
  state_[0] = kUpperBit;
}

void PythonRandom::Refill() {
  for (int i = 0; i < kWords; ++i) {
    const uint32_t bits =
        (state_[i] & kUpperBit) | (state_[(i + 1) % kWords] & kLowerBits);
    state_[i] = state_[(i + kShift) % kWords] ^ (bits >> 1) ^
                ((bits & 1) != 0 ? kMatrix : 0);
  }
  used_ = 0;
}

uint32_t PythonRandom::Next() {
  if (used_ == kWords) Refill();
  uint32_t word = state_[used_++];
  word ^= word >> 11;
  word ^= (word << 7) & 0x9d2c5680;
  word ^= (word << 15) & 0xefc60000;
  return word ^ (word >> 18);
}

int64_t PythonRandom::UpTo(int64_t last) {
  const auto count = static_cast<uint64_t>(last) + 1;
  const int bits = std::bit_width(count);
  uint32_t drawn = Next() >> (32 - bits);
  while (drawn >= count) drawn = Next() >> (32 - bits);
  return drawn;
}

}  // namespace quantd::calibration
