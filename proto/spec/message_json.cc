// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/message_json.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/descriptor.h"
#include "proto/spec/nearest.h"
#include "quantd/v1/recipe.pb.h"

namespace quantd::spec {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using nlohmann::json;

json ValueToJson(const v1::Value& value) {
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

// One value of a field; `index` is -1 for a singular one.
json FieldToJson(const Message& message, const FieldDescriptor* field,
                 int index) {
  const Reflection* reflection = message.GetReflection();
  const bool repeated = index >= 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ToJson(repeated
                        ? reflection->GetRepeatedMessage(message, field, index)
                        : reflection->GetMessage(message, field));
    case FieldDescriptor::CPPTYPE_STRING:
      return repeated ? reflection->GetRepeatedString(message, field, index)
                      : reflection->GetString(message, field);
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->GetBool(message, field);
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection->GetInt32(message, field);
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection->GetInt64(message, field);
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection->GetUInt64(message, field);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection->GetDouble(message, field);
    default:
      return nullptr;
  }
}

json MapToJson(const Message& message, const FieldDescriptor* field) {
  json object = json::object();
  const Reflection* reflection = message.GetReflection();
  const auto* entry_type = field->message_type();
  for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
    const Message& entry = reflection->GetRepeatedMessage(message, field, i);
    const json key = FieldToJson(entry, entry_type->map_key(), -1);
    object[key.get<std::string>()] =
        FieldToJson(entry, entry_type->map_value(), -1);
  }
  return object;
}

// Reads one JSON value into messages, noting what does not fit.
class Reader {
 public:
  explicit Reader(std::vector<Violation>* violations)
      : violations_(violations) {}

  void ReadMessage(const json& value, const std::string& path,
                   Message* message) {
    if (message->GetDescriptor() == v1::Value::descriptor()) {
      ReadValue(value, path, static_cast<v1::Value*>(message));
      return;
    }
    if (message->GetDescriptor() == v1::Component::descriptor() &&
        value.is_string()) {
      static_cast<v1::Component*>(message)->set_id(value.get<std::string>());
      return;
    }
    if (!value.is_object()) {
      Wrong(path, value, "an object is wanted here");
      return;
    }
    for (const auto& [key, item] : value.items()) {
      const FieldDescriptor* field =
          message->GetDescriptor()->FindFieldByName(key);
      if (field == nullptr) {
        Unknown(path, key, *message);
        continue;
      }
      ReadField(item, path.empty() ? key : absl::StrCat(path, ".", key), field,
                message);
    }
  }

 private:
  void Wrong(const std::string& path, const json& value,
             absl::string_view description) {
    const std::string text =
        value.dump(-1, ' ', false, json::error_handler_t::replace);
    violations_->push_back({path.empty() ? "(file)" : path, Shortened(text),
                            "FIELD_TYPE", std::string(description), ""});
  }

  void Unknown(const std::string& path, const std::string& key,
               const Message& message) {
    std::vector<std::string> names;
    for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
      names.push_back(message.GetDescriptor()->field(i)->name());
    }
    violations_->push_back(
        {path.empty() ? "(file)" : path, Shortened(key), "FIELD_UNKNOWN",
         "is no known key",
         absl::StrCat("the nearest are ",
                      absl::StrJoin(NearestNames(key, names), ", "))});
  }

  void ReadValue(const json& value, const std::string& path,
                 v1::Value* message) {
    if (value.is_boolean()) {
      message->set_bool_value(value.get<bool>());
    } else if (value.is_number_integer() && FitsInt64(value)) {
      message->set_int_value(value.get<int64_t>());
    } else if (value.is_number_float()) {
      message->set_double_value(value.get<double>());
    } else if (value.is_string()) {
      message->set_string_value(value.get<std::string>());
    } else {
      Wrong(path, value, "a number, a word, true or false is wanted here");
    }
  }

  static bool FitsInt64(const json& value) {
    return !value.is_number_unsigned() ||
           value.get<uint64_t>() <=
               static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  }

  void ReadField(const json& value, const std::string& path,
                 const FieldDescriptor* field, Message* message) {
    const Reflection* reflection = message->GetReflection();
    if (field->is_map()) {
      ReadMap(value, path, field, message);
    } else if (field->is_repeated()) {
      if (!value.is_array()) {
        Wrong(path, value, "a list is wanted here");
        return;
      }
      reflection->ClearField(message, field);
      for (size_t i = 0; i < value.size(); ++i) {
        ReadMessage(value[i], absl::StrCat(path, "[", i, "]"),
                    reflection->AddMessage(message, field));
      }
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      ReadMessage(value, path, reflection->MutableMessage(message, field));
    } else {
      ReadScalar(value, path, field, message);
    }
  }

  void ReadMap(const json& value, const std::string& path,
               const FieldDescriptor* field, Message* message) {
    if (!value.is_object()) {
      Wrong(path, value, "an object is wanted here");
      return;
    }
    const Reflection* reflection = message->GetReflection();
    const auto* entry_type = field->message_type();
    for (const auto& [key, item] : value.items()) {
      // Adding an entry whose key is there already replaces it: the last one
      // wins when the map is next looked at.
      Message* entry = reflection->AddMessage(message, field);
      entry->GetReflection()->SetString(entry, entry_type->map_key(), key);
      ReadField(item, absl::StrCat(path, ".", Shortened(key)),
                entry_type->map_value(), entry);
    }
  }

  void ReadScalar(const json& value, const std::string& path,
                  const FieldDescriptor* field, Message* message) {
    const Reflection* reflection = message->GetReflection();
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        if (!value.is_string()) break;
        reflection->SetString(message, field, value.get<std::string>());
        return;
      case FieldDescriptor::CPPTYPE_BOOL:
        if (!value.is_boolean()) break;
        reflection->SetBool(message, field, value.get<bool>());
        return;
      case FieldDescriptor::CPPTYPE_INT64:
        if (!value.is_number_integer() || !FitsInt64(value)) break;
        reflection->SetInt64(message, field, value.get<int64_t>());
        return;
      case FieldDescriptor::CPPTYPE_INT32: {
        if (!value.is_number_integer() || !FitsInt64(value)) break;
        const int64_t number = value.get<int64_t>();
        if (number != static_cast<int32_t>(number)) break;
        reflection->SetInt32(message, field, static_cast<int32_t>(number));
        return;
      }
      case FieldDescriptor::CPPTYPE_UINT64:
        if (!value.is_number_unsigned() &&
            !(value.is_number_integer() && value.get<int64_t>() >= 0)) {
          break;
        }
        reflection->SetUInt64(message, field, value.get<uint64_t>());
        return;
      case FieldDescriptor::CPPTYPE_DOUBLE:
        if (!value.is_number()) break;
        reflection->SetDouble(message, field, value.get<double>());
        return;
      default:
        break;
    }
    Wrong(path, value, absl::StrCat("has the wrong type"));
  }

  std::vector<Violation>* const violations_;
};

}  // namespace

json ToJson(const Message& message) {
  if (message.GetDescriptor() == v1::Value::descriptor()) {
    return ValueToJson(static_cast<const v1::Value&>(message));
  }
  const Reflection* reflection = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  json object = json::object();
  for (const FieldDescriptor* field : fields) {
    if (field->is_map()) {
      object[field->name()] = MapToJson(message, field);
    } else if (field->is_repeated()) {
      json array = json::array();
      for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
        array.push_back(FieldToJson(message, field, i));
      }
      object[field->name()] = std::move(array);
    } else {
      object[field->name()] = FieldToJson(message, field, -1);
    }
  }
  return object;
}

void FromJson(const json& value, const std::string& path, Message* message,
              std::vector<Violation>* violations) {
  Reader(violations).ReadMessage(value, path, message);
}

}  // namespace quantd::spec
