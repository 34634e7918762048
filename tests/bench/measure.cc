// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/measure.h"

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

namespace quantd::bench {
namespace {

// A line of /proc/self/status that is in kB.
double StatusBytes(const char* name) {
  FILE* file = fopen("/proc/self/status", "r");
  if (file == nullptr) return 0;
  char line[256];
  double kilobytes = 0;
  while (fgets(line, sizeof(line), file) != nullptr) {
    if (strncmp(line, name, strlen(name)) == 0) {
      sscanf(line + strlen(name), ": %lf", &kilobytes);
    }
  }
  fclose(file);
  return 1024 * kilobytes;
}

Times Summary(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return {seconds[seconds.size() / 2], seconds.front(), seconds.back()};
}

double SecondsOf(int threads, const std::function<void()>& body) {
  const Stopwatch watch(threads);
  body();
  return watch.Seconds();
}

}  // namespace

double Stopwatch::Now() const {
  timespec now;
  clock_gettime(threads_ == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC,
                &now);
  return static_cast<double>(now.tv_sec) +
         1e-9 * static_cast<double>(now.tv_nsec);
}

Times Measure(int threads, int repeats, const std::function<void()>& body) {
  std::vector<double> seconds;
  body();  // Warm: pages, threads, dispatcher.
  for (int i = 0; i < repeats; ++i) {
    seconds.push_back(SecondsOf(threads, body));
  }
  return Summary(std::move(seconds));
}

Comparison MeasureInTurns(int threads, int repeats,
                          const std::function<void()>& ours,
                          const std::function<void()>& eager) {
  std::vector<double> our_seconds;
  std::vector<double> eager_seconds;
  ours();
  eager();
  for (int i = 0; i < repeats; ++i) {
    our_seconds.push_back(SecondsOf(threads, ours));
    eager_seconds.push_back(SecondsOf(threads, eager));
  }
  return {Summary(std::move(our_seconds)), Summary(std::move(eager_seconds))};
}

void PrintLine(const char* what, const Times& t, double flops, double peak,
               const Times* eager) {
  printf("  %-14s %9.3f ms (%.3f .. %.3f)  %6.1f GF/s = %.2f of peak", what,
         1e3 * t.median, 1e3 * t.least, 1e3 * t.most, 1e-9 * flops / t.median,
         flops / t.median / peak);
  if (eager != nullptr) printf("  %.1fx eager", eager->median / t.median);
  printf("\n");
  fflush(stdout);
}

double ResidentBytes() { return StatusBytes("VmRSS"); }
double PeakResidentBytes() { return StatusBytes("VmHWM"); }

void ForgetPeak() {
  FILE* file = fopen("/proc/self/clear_refs", "w");
  if (file == nullptr) return;
  fputs("5", file);
  fclose(file);
}

}  // namespace quantd::bench
