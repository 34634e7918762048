// SPDX-License-Identifier: Apache-2.0
// Typed parameters of one component, with the catalog's defaults filled in.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "quantd/v1/catalog.pb.h"
#include "quantd/v1/recipe.pb.h"

namespace quantd::spec {

// Immutable after Resolve; copies are cheap enough to pass by value.
class Params {
 public:
  // Checks names, types, ranges and choices against `entry`; every problem is
  // in the one INVALID_ARGUMENT that is returned (PARAMETER_INVALID). An int is
  // accepted where a double is asked for.
  static absl::StatusOr<Params> Resolve(const v1::Component& component,
                                        const v1::ComponentEntry& entry);

  // The value of a parameter that the entry declares with this type. Asking for
  // another name or type is a bug and aborts.
  bool GetBool(absl::string_view name) const;
  int64_t GetInt(absl::string_view name) const;
  double GetDouble(absl::string_view name) const;
  const std::string& GetString(absl::string_view name) const;

  // All values, defaults included: what goes into digests and manifests.
  const std::map<std::string, v1::Value>& values() const { return values_; }

 private:
  const v1::Value& Get(absl::string_view name) const;

  std::map<std::string, v1::Value> values_;
};

// Declarations for registry rows, for example
//   DoubleParameter("percdamp", 0.01, 0.0, 1.0, "Damping ...")
v1::Parameter BoolParameter(absl::string_view name, bool default_value,
                            absl::string_view summary);
v1::Parameter IntParameter(absl::string_view name, int64_t default_value,
                           double min, double max, absl::string_view summary);
v1::Parameter DoubleParameter(absl::string_view name, double default_value,
                              double min, double max,
                              absl::string_view summary);
// Empty `choices` means any string.
v1::Parameter StringParameter(absl::string_view name,
                              absl::string_view default_value,
                              const std::vector<std::string>& choices,
                              absl::string_view summary);

}  // namespace quantd::spec
