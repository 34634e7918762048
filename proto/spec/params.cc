// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/params.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/base/error.h"
#include "spdlog/spdlog.h"

namespace quantd::spec {
namespace {

v1::ParameterType TypeOf(const v1::Value& value) {
  switch (value.kind_case()) {
    case v1::Value::kBoolValue:
      return v1::PARAMETER_TYPE_BOOL;
    case v1::Value::kIntValue:
      return v1::PARAMETER_TYPE_INT;
    case v1::Value::kDoubleValue:
      return v1::PARAMETER_TYPE_DOUBLE;
    case v1::Value::kStringValue:
      return v1::PARAMETER_TYPE_STRING;
    case v1::Value::KIND_NOT_SET:
      break;
  }
  return v1::PARAMETER_TYPE_UNSPECIFIED;
}

absl::string_view TypeName(v1::ParameterType type) {
  switch (type) {
    case v1::PARAMETER_TYPE_BOOL:
      return "true or false";
    case v1::PARAMETER_TYPE_INT:
      return "a whole number";
    case v1::PARAMETER_TYPE_DOUBLE:
      return "a number";
    default:
      return "a word";
  }
}

// Empty where the value is legal.
std::string Problem(const v1::Parameter& parameter, const v1::Value& value) {
  if (TypeOf(value) != parameter.type()) {
    return absl::StrCat(parameter.name(), " takes ",
                        TypeName(parameter.type()));
  }
  if (parameter.type() == v1::PARAMETER_TYPE_STRING) {
    const auto& choices = parameter.choices();
    if (choices.empty() || std::find(choices.begin(), choices.end(),
                                     value.string_value()) != choices.end()) {
      return "";
    }
    return absl::StrCat(parameter.name(), " is \"", value.string_value(),
                        "\"; it takes one of ", absl::StrJoin(choices, ", "));
  }
  if (parameter.type() == v1::PARAMETER_TYPE_BOOL) return "";
  const double number = parameter.type() == v1::PARAMETER_TYPE_INT
                            ? static_cast<double>(value.int_value())
                            : value.double_value();
  const bool low = parameter.has_min() && !(number >= parameter.min());
  const bool high = parameter.has_max() && !(number <= parameter.max());
  if (!low && !high) return "";
  return absl::StrCat(parameter.name(), " is ", number, "; it must be ",
                      low ? "at least " : "at most ",
                      low ? parameter.min() : parameter.max());
}

v1::Parameter MakeParameter(absl::string_view name, v1::ParameterType type,
                            absl::string_view summary) {
  v1::Parameter parameter;
  parameter.set_name(std::string(name));
  parameter.set_type(type);
  parameter.set_summary(std::string(summary));
  return parameter;
}

}  // namespace

absl::StatusOr<Params> Params::Resolve(const v1::Component& component,
                                       const v1::ComponentEntry& entry) {
  Params result;
  std::vector<std::string> problems;
  std::vector<std::string> names;
  for (const v1::Parameter& parameter : entry.params()) {
    names.push_back(parameter.name());
    v1::Value value = parameter.default_value();
    const auto given = component.params().find(parameter.name());
    if (given != component.params().end()) {
      value = given->second;
      if (parameter.type() == v1::PARAMETER_TYPE_DOUBLE &&
          value.kind_case() == v1::Value::kIntValue) {
        value.set_double_value(static_cast<double>(value.int_value()));
      }
      const std::string problem = Problem(parameter, value);
      if (!problem.empty()) problems.push_back(problem);
    }
    result.values_[parameter.name()] = value;
  }
  for (const auto& [name, value] : component.params()) {
    if (!result.values_.contains(name)) {
      problems.push_back(absl::StrCat(
          "no parameter is called ", name, "; there ",
          names.empty() ? "are none" : "are ", absl::StrJoin(names, ", ")));
    }
  }
  if (!problems.empty()) {
    std::sort(problems.begin(), problems.end());
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "PARAMETER_INVALID",
        absl::StrCat(entry.id(), ": ", absl::StrJoin(problems, "; ")),
        {{"component", entry.id()}});
  }
  return result;
}

const v1::Value& Params::Get(absl::string_view name) const {
  const auto found = values_.find(std::string(name));
  if (found == values_.end()) {
    spdlog::critical("parameter {} is not declared", std::string(name));
    std::abort();
  }
  return found->second;
}

bool Params::GetBool(absl::string_view name) const {
  return Get(name).bool_value();
}

int64_t Params::GetInt(absl::string_view name) const {
  return Get(name).int_value();
}

double Params::GetDouble(absl::string_view name) const {
  return Get(name).double_value();
}

const std::string& Params::GetString(absl::string_view name) const {
  return Get(name).string_value();
}

v1::Parameter BoolParameter(absl::string_view name, bool default_value,
                            absl::string_view summary) {
  v1::Parameter parameter =
      MakeParameter(name, v1::PARAMETER_TYPE_BOOL, summary);
  parameter.mutable_default_value()->set_bool_value(default_value);
  return parameter;
}

v1::Parameter IntParameter(absl::string_view name, int64_t default_value,
                           double min, double max, absl::string_view summary) {
  v1::Parameter parameter =
      MakeParameter(name, v1::PARAMETER_TYPE_INT, summary);
  parameter.mutable_default_value()->set_int_value(default_value);
  parameter.set_min(min);
  parameter.set_max(max);
  return parameter;
}

v1::Parameter DoubleParameter(absl::string_view name, double default_value,
                              double min, double max,
                              absl::string_view summary) {
  v1::Parameter parameter =
      MakeParameter(name, v1::PARAMETER_TYPE_DOUBLE, summary);
  parameter.mutable_default_value()->set_double_value(default_value);
  parameter.set_min(min);
  parameter.set_max(max);
  return parameter;
}

v1::Parameter StringParameter(absl::string_view name,
                              absl::string_view default_value,
                              const std::vector<std::string>& choices,
                              absl::string_view summary) {
  v1::Parameter parameter =
      MakeParameter(name, v1::PARAMETER_TYPE_STRING, summary);
  parameter.mutable_default_value()->set_string_value(
      std::string(default_value));
  for (const std::string& choice : choices) parameter.add_choices(choice);
  return parameter;
}

}  // namespace quantd::spec
