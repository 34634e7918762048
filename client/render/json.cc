// SPDX-License-Identifier: Apache-2.0
#include "client/render/json.h"

#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/render/quantities.h"
#include "google/protobuf/descriptor.h"
#include "quantd/v1/recipe.pb.h"

namespace quantd::render {
namespace {

using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr char kTimestamp[] = "google.protobuf.Timestamp";
constexpr char kValue[] = "quantd.v1.Value";

// "JobState" is spelled JOB_STATE_ before its values.
std::string EnumName(const EnumValueDescriptor& value) {
  std::string prefix;
  for (const char c : value.type()->name()) {
    if (absl::ascii_isupper(c) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(c);
  }
  prefix += '_';
  const std::string& name = value.name();
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

Json TimeToJson(const Message& message) {
  google::protobuf::Timestamp time;
  time.CopyFrom(message);
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E*SZ", ToTime(time),
                          absl::UTCTimeZone());
}

Json ValueToJson(const Message& message) {
  v1::Value value;
  value.CopyFrom(message);
  switch (value.kind_case()) {
    case v1::Value::kBoolValue:
      return value.bool_value();
    case v1::Value::kIntValue:
      return value.int_value();
    case v1::Value::kDoubleValue:
      return value.double_value();
    case v1::Value::kStringValue:
      return value.string_value();
    case v1::Value::KIND_NOT_SET:
      break;
  }
  return nullptr;
}

Json StringToJson(const FieldDescriptor& field, const std::string& text) {
  if (field.type() != FieldDescriptor::TYPE_BYTES) return text;
  return absl::Base64Escape(text);
}

// Element `index` of a repeated field, or the field itself where it is -1.
Json FieldToJson(const Message& message, const FieldDescriptor& field,
                 int index) {
  const auto& reflection = *message.GetReflection();
  const bool repeated = index >= 0;
#define QUANTD_GET(Type)                                           \
  (repeated ? reflection.GetRepeated##Type(message, &field, index) \
            : reflection.Get##Type(message, &field))
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return QUANTD_GET(Int32);
    case FieldDescriptor::CPPTYPE_INT64:
      return QUANTD_GET(Int64);
    case FieldDescriptor::CPPTYPE_UINT32:
      return QUANTD_GET(UInt32);
    case FieldDescriptor::CPPTYPE_UINT64:
      return QUANTD_GET(UInt64);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return QUANTD_GET(Double);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return QUANTD_GET(Float);
    case FieldDescriptor::CPPTYPE_BOOL:
      return QUANTD_GET(Bool);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumName(*QUANTD_GET(Enum));
    case FieldDescriptor::CPPTYPE_STRING:
      return StringToJson(field, QUANTD_GET(String));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ToJson(QUANTD_GET(Message));
  }
#undef QUANTD_GET
  return nullptr;
}

Json MapToJson(const Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  std::map<std::string, Json> sorted;
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    const Message& entry = reflection.GetRepeatedMessage(message, &field, i);
    const auto& type = *entry.GetDescriptor();
    sorted[FieldToJson(entry, *type.map_key(), -1).get<std::string>()] =
        FieldToJson(entry, *type.map_value(), -1);
  }
  Json result = Json::object();
  for (auto& [key, value] : sorted) result[key] = std::move(value);
  return result;
}

Json ListToJson(const Message& message, const FieldDescriptor& field) {
  Json result = Json::array();
  const int size = message.GetReflection()->FieldSize(message, &field);
  for (int i = 0; i < size; ++i) {
    result.push_back(FieldToJson(message, field, i));
  }
  return result;
}

}  // namespace

Json ToJson(const Message& message) {
  const auto& type = *message.GetDescriptor();
  if (type.full_name() == kTimestamp) return TimeToJson(message);
  if (type.full_name() == kValue) return ValueToJson(message);
  Json result = Json::object();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.is_map()) {
      result[field.name()] = MapToJson(message, field);
    } else if (field.is_repeated()) {
      result[field.name()] = ListToJson(message, field);
    } else if (!field.has_presence() ||
               message.GetReflection()->HasField(message, &field)) {
      result[field.name()] = FieldToJson(message, field, -1);
    }
  }
  return result;
}

void PrintJson(const Json& json, OutputFormat format, absl::string_view items,
               std::ostream& out) {
  // Bytes that are not UTF-8 become the replacement character.
  const auto dump = [](const Json& value, int indent) {
    return value.dump(indent, ' ', false, Json::error_handler_t::replace);
  };
  if (format == OutputFormat::kYaml) {
    out << ToYaml(json);
  } else if (format == OutputFormat::kJson) {
    out << dump(json, 2) << "\n";
  } else if (items.empty()) {
    out << dump(json, -1) << "\n";
  } else {
    for (const Json& item : json.at(std::string(items))) {
      out << dump(item, -1) << "\n";
    }
  }
}

}  // namespace quantd::render
