// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/metrics.h"

#include <cstdlib>

#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/text_serializer.h"
#include "spdlog/spdlog.h"

namespace quantd::metrics {
namespace {

prometheus::Labels LabelsOf(const MetricInfo& info,
                            const std::vector<std::string>& values) {
  if (values.size() != info.labels.size()) {
    spdlog::critical("metric {} has {} labels", info.name, info.labels.size());
    std::abort();
  }
  prometheus::Labels labels;
  for (size_t i = 0; i < values.size(); ++i) labels[info.labels[i]] = values[i];
  return labels;
}

}  // namespace

Metrics::Metrics() {
  for (const MetricInfo& info : Catalog()) {
    Families families;
    families.info = &info;
    switch (info.type) {
      case Type::kCounter:
        families.counter = &prometheus::BuildCounter()
                                .Name(info.name)
                                .Help(info.help)
                                .Register(registry_);
        // Known series begin at 0, so that a first increment is a rate.
        if (info.labels.empty()) families.counter->Add({});
        break;
      case Type::kGauge:
        families.gauge =
            &prometheus::BuildGauge().Name(info.name).Help(info.help).Register(
                registry_);
        break;
      case Type::kHistogram:
        families.histogram = &prometheus::BuildHistogram()
                                  .Name(info.name)
                                  .Help(info.help)
                                  .Register(registry_);
        if (info.labels.empty()) families.histogram->Add({}, info.buckets);
        break;
    }
    families_[info.name] = families;
  }
}

const Metrics::Families& Metrics::Find(absl::string_view name,
                                       Type type) const {
  const auto found = families_.find(name);
  if (found == families_.end() || found->second.info->type != type) {
    spdlog::critical("no such metric: {}", std::string(name));
    std::abort();
  }
  return found->second;
}

void Metrics::Increment(absl::string_view name,
                        const std::vector<std::string>& labels, double by) {
  const Families& families = Find(name, Type::kCounter);
  families.counter->Add(LabelsOf(*families.info, labels)).Increment(by);
}

void Metrics::RaiseTo(absl::string_view name, double value) {
  const Families& families = Find(name, Type::kCounter);
  prometheus::Counter& counter = families.counter->Add({});
  if (value > counter.Value()) counter.Increment(value - counter.Value());
}

void Metrics::Set(absl::string_view name, double value,
                  const std::vector<std::string>& labels) {
  const Families& families = Find(name, Type::kGauge);
  families.gauge->Add(LabelsOf(*families.info, labels)).Set(value);
}

void Metrics::Observe(absl::string_view name, double value,
                      const std::vector<std::string>& labels) {
  const Families& families = Find(name, Type::kHistogram);
  families.histogram
      ->Add(LabelsOf(*families.info, labels), families.info->buckets)
      .Observe(value);
}

std::string Metrics::Text() const {
  return prometheus::TextSerializer().Serialize(registry_.Collect());
}

}  // namespace quantd::metrics
