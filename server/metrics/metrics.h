// SPDX-License-Identifier: Apache-2.0
// The figures of a running server, named as in catalog.h and written in the
// text format of Prometheus. Thread-safe. Names and the number of labels are
// fixed by the catalog; asking for others is a bug and aborts. Label values are
// words of closed lists, never names of jobs, files or users.
#pragma once

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "prometheus/family.h"
#include "prometheus/registry.h"
#include "server/metrics/catalog.h"

namespace quantd::metrics {

class Metrics {
 public:
  Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  void Increment(absl::string_view name,
                 const std::vector<std::string>& labels = {}, double by = 1);
  // Raises a counter to `value`, the total that something else has counted;
  // a smaller value is ignored.
  void RaiseTo(absl::string_view name, double value);
  void Set(absl::string_view name, double value,
           const std::vector<std::string>& labels = {});
  void Observe(absl::string_view name, double value,
               const std::vector<std::string>& labels = {});

  // What a scrape gets.
  std::string Text() const;

 private:
  struct Families {
    const MetricInfo* info = nullptr;
    prometheus::Family<prometheus::Counter>* counter = nullptr;
    prometheus::Family<prometheus::Gauge>* gauge = nullptr;
    prometheus::Family<prometheus::Histogram>* histogram = nullptr;
  };
  const Families& Find(absl::string_view name, Type type) const;

  prometheus::Registry registry_;
  // Constant after construction.
  absl::flat_hash_map<std::string, Families> families_;
};

}  // namespace quantd::metrics
