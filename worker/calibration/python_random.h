// SPDX-License-Identifier: Apache-2.0
// The random integers of Python's `random` module, so that a seed picks the
// calibration windows that reference implementations pick with it.
#pragma once

#include <array>
#include <cstdint>

namespace quantd::calibration {

// MT19937 (Matsumoto and Nishimura 1998), seeded by init_by_array with the
// 32-bit words of the seed, as random.seed(int) does. One owner.
class PythonRandom {
 public:
  explicit PythonRandom(uint64_t seed);
  // random.getrandbits(32).
  uint32_t Next();
  // random.randint(0, last): uniform on 0..last, both included.
  // 0 <= last < 2^32 - 1.
  int64_t UpTo(int64_t last);

 private:
  static constexpr int kWords = 624;
  void Refill();

  std::array<uint32_t, kWords> state_;
  int used_ = kWords;
};

}  // namespace quantd::calibration
