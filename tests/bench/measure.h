// SPDX-License-Identifier: Apache-2.0
// How the benchmarks take time and print it.
#pragma once

#include <functional>

namespace quantd::bench {

struct Times {
  double median = 0;
  double least = 0;
  double most = 0;
};

// One thread: CPU seconds of the process, so that other load on the machine
// does not count. More: wall seconds.
class Stopwatch {
 public:
  explicit Stopwatch(int threads) : threads_(threads), began_(Now()) {}
  double Seconds() const { return Now() - began_; }

 private:
  double Now() const;

  const int threads_;
  const double began_;
};

// Runs `body` once to warm up, then `repeats` times.
Times Measure(int threads, int repeats, const std::function<void()>& body);

struct Comparison {
  Times ours;
  Times eager;
};

// Runs each once to warm up, then both `repeats` times, taking turns, so that
// what else goes on in the machine meets both.
Comparison MeasureInTurns(int threads, int repeats,
                          const std::function<void()>& ours,
                          const std::function<void()>& eager);

// `peak` in FLOP/s; `eager` may be null.
void PrintLine(const char* what, const Times& times, double flops, double peak,
               const Times* eager);

// Of this process, in bytes.
double ResidentBytes();
double PeakResidentBytes();
// Makes the present memory the peak.
void ForgetPeak();

}  // namespace quantd::bench
