// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoints/safetensors_header.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/checkpoints/strict_json.h"

namespace quantd::checkpoints {
namespace {

using Json = nlohmann::json;

constexpr int64_t kLengthBytes = 8;
// The reference implementation's bound.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxTensors = 1'000'000;
constexpr size_t kMaxDims = 8;
constexpr size_t kMaxNameBytes = 256;
constexpr int64_t kMaxHeaderValues = 20'000'000;

absl::Status Refuse(absl::string_view reason, absl::string_view message) {
  return base::MakeError(absl::StatusCode::kInvalidArgument, reason, message);
}

std::string Quote(absl::string_view name) {
  return absl::StrCat("tensor \"", name.substr(0, 80), "\"");
}

// A count or an offset. Negative numbers and fractions are no count.
absl::StatusOr<int64_t> Count(const std::string& name, const Json& value,
                              absl::string_view reason) {
  if (!value.is_number_unsigned()) {
    return Refuse(reason, absl::StrCat(Quote(name),
                                       " has a size that is not a "
                                       "non-negative integer"));
  }
  const uint64_t count = value.get<uint64_t>();
  if (count > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return Refuse("SIZE_OVERFLOW",
                  absl::StrCat(Quote(name), " has a size beyond 2^63"));
  }
  return static_cast<int64_t>(count);
}

absl::Status ParseShape(const std::string& name, const Json& shape,
                        SafetensorsEntry* entry) {
  if (shape.size() > kMaxDims) {
    return Refuse("SHAPE_INVALID", absl::StrCat(Quote(name), " has more than ",
                                                kMaxDims, " dimensions"));
  }
  for (const Json& dim : shape) {
    ASSIGN_OR_RETURN(const int64_t count, Count(name, dim, "SHAPE_INVALID"));
    entry->shape.push_back(count);
  }
  return absl::OkStatus();
}

// The bytes between the offsets must be exactly those the shape needs.
absl::Status CheckSize(const std::string& name, const SafetensorsEntry& entry) {
  int64_t bits = entry.dtype->bits;
  for (const int64_t dim : entry.shape) {
    if (__builtin_mul_overflow(bits, dim, &bits)) {
      return Refuse("SIZE_OVERFLOW",
                    absl::StrCat(Quote(name), " is larger than 2^63 bits"));
    }
  }
  if (bits % 8 != 0) {
    return Refuse("DTYPE_MISALIGNED",
                  absl::StrCat(Quote(name), " does not fill whole bytes"));
  }
  if (entry.end < entry.begin) {
    return Refuse("OFFSET_INVALID",
                  absl::StrCat(Quote(name), " ends before it begins"));
  }
  if (entry.end - entry.begin != bits / 8) {
    return Refuse("SIZE_MISMATCH",
                  absl::StrCat(Quote(name), " takes ", entry.end - entry.begin,
                               " bytes, its shape ", bits / 8));
  }
  return absl::OkStatus();
}

absl::StatusOr<SafetensorsEntry> ParseEntry(const std::string& name,
                                            const Json& json) {
  if (name.empty() || name.size() > kMaxNameBytes) {
    return Refuse("TENSOR_NAME", absl::StrCat(Quote(name),
                                              " has a name that is empty or "
                                              "longer than 256 bytes"));
  }
  const auto entry_error = [&name] {
    return Refuse("HEADER_ENTRY", absl::StrCat(Quote(name),
                                               " needs dtype, shape and two "
                                               "data_offsets"));
  };
  if (!json.is_object()) return entry_error();
  const auto dtype = json.find("dtype");
  const auto shape = json.find("shape");
  const auto offsets = json.find("data_offsets");
  if (dtype == json.end() || !dtype->is_string() || shape == json.end() ||
      !shape->is_array() || offsets == json.end() || !offsets->is_array() ||
      offsets->size() != 2) {
    return entry_error();
  }
  SafetensorsEntry entry;
  entry.dtype = FindSafetensorsDtype(dtype->get_ref<const std::string&>());
  if (entry.dtype == nullptr) {
    return Refuse(
        "DTYPE_UNKNOWN",
        absl::StrCat(Quote(name), " has the unknown dtype \"",
                     dtype->get_ref<const std::string&>().substr(0, 40), "\""));
  }
  RETURN_IF_ERROR(ParseShape(name, *shape, &entry));
  ASSIGN_OR_RETURN(entry.begin, Count(name, (*offsets)[0], "OFFSET_INVALID"));
  ASSIGN_OR_RETURN(entry.end, Count(name, (*offsets)[1], "OFFSET_INVALID"));
  RETURN_IF_ERROR(CheckSize(name, entry));
  return entry;
}

absl::Status CheckMetadata(const Json& metadata) {
  const bool strings =
      metadata.is_object() &&
      std::all_of(metadata.begin(), metadata.end(),
                  [](const Json& value) { return value.is_string(); });
  if (strings) return absl::OkStatus();
  return Refuse("HEADER_METADATA", "__metadata__ must map strings to strings");
}

// No two tensors share bytes and no byte belongs to none.
absl::Status CheckLayout(const SafetensorsHeader& header, int64_t data_bytes) {
  std::vector<std::pair<int64_t, int64_t>> spans;
  spans.reserve(header.entries.size());
  for (const auto& [name, entry] : header.entries) {
    spans.emplace_back(entry.begin, entry.end);
  }
  std::sort(spans.begin(), spans.end());
  int64_t end = 0;
  for (const auto& [begin, next] : spans) {
    if (begin < end) {
      return Refuse("OFFSET_OVERLAP",
                    absl::StrCat("two tensors share byte ", begin));
    }
    if (begin > end) {
      return Refuse("OFFSET_HOLE", absl::StrCat("no tensor holds byte ", end));
    }
    end = next;
  }
  if (end > data_bytes) {
    return Refuse("FILE_TRUNCATED",
                  absl::StrCat("the header announces ", end,
                               " bytes of tensors, the file has ", data_bytes));
  }
  if (end < data_bytes) {
    return Refuse("TRAILING_BYTES", absl::StrCat(data_bytes - end,
                                                 " bytes follow the last "
                                                 "tensor"));
  }
  return absl::OkStatus();
}

}  // namespace

const std::vector<SafetensorsDtype>& SafetensorsDtypes() {
  // Four-bit tensors of LibTorch hold two values per element, and it has no
  // six-bit type: those are listed but cannot be read as tensors.
  static const auto& dtypes = *new std::vector<SafetensorsDtype>{
      {"BOOL", 8, at::kBool},
      {"F4", 4, std::nullopt},
      {"F6_E2M3", 6, std::nullopt},
      {"F6_E3M2", 6, std::nullopt},
      {"U8", 8, at::kByte},
      {"I8", 8, at::kChar},
      {"F8_E5M2", 8, at::kFloat8_e5m2},
      {"F8_E4M3", 8, at::kFloat8_e4m3fn},
      {"F8_E8M0", 8, at::kFloat8_e8m0fnu},
      {"F8_E4M3FNUZ", 8, at::kFloat8_e4m3fnuz},
      {"F8_E5M2FNUZ", 8, at::kFloat8_e5m2fnuz},
      {"I16", 16, at::kShort},
      {"U16", 16, at::kUInt16},
      {"F16", 16, at::kHalf},
      {"BF16", 16, at::kBFloat16},
      {"I32", 32, at::kInt},
      {"U32", 32, at::kUInt32},
      {"F32", 32, at::kFloat},
      {"C64", 64, at::kComplexFloat},
      {"F64", 64, at::kDouble},
      {"I64", 64, at::kLong},
      {"U64", 64, at::kUInt64},
  };
  return dtypes;
}

const SafetensorsDtype* FindSafetensorsDtype(absl::string_view name) {
  for (const SafetensorsDtype& dtype : SafetensorsDtypes()) {
    if (name == dtype.name) return &dtype;
  }
  return nullptr;
}

const SafetensorsDtype* FindSafetensorsDtype(at::ScalarType type) {
  for (const SafetensorsDtype& dtype : SafetensorsDtypes()) {
    if (dtype.type == type) return &dtype;
  }
  return nullptr;
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(
    absl::string_view header, int64_t data_bytes) {
  ASSIGN_OR_RETURN(const Json json,
                   ParseStrictJson(header, {.syntax_reason = "HEADER_JSON",
                                            .what = "the safetensors header",
                                            .max_values = kMaxHeaderValues}));
  if (!json.is_object()) {
    return Refuse("HEADER_JSON", "the safetensors header is not an object");
  }
  if (json.size() > kMaxTensors) {
    return Refuse("TENSORS_TOO_MANY", "the file has over a million tensors");
  }
  SafetensorsHeader result;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      RETURN_IF_ERROR(CheckMetadata(value));
      result.metadata = value;
      continue;
    }
    ASSIGN_OR_RETURN(SafetensorsEntry entry, ParseEntry(name, value));
    result.entries.emplace(name, std::move(entry));
  }
  RETURN_IF_ERROR(CheckLayout(result, data_bytes));
  return result;
}

absl::StatusOr<SafetensorsHeader> ReadSafetensorsHeader(const InputFile& file) {
  if (file.size_bytes() < kLengthBytes) {
    return Refuse("HEADER_TOO_SMALL",
                  absl::StrCat("a safetensors file of ", file.size_bytes(),
                               " bytes has no header"));
  }
  ASSIGN_OR_RETURN(
      const std::string head,
      file.ReadString(0, std::min<int64_t>(16, file.size_bytes())));
  uint64_t length = 0;
  // Little-endian, as is every machine this runs on.
  std::memcpy(&length, head.data(), sizeof(length));
  if (length > kMaxHeaderBytes) {
    if (LooksLikePickle(head)) return PickleRefused();
    return Refuse(
        "HEADER_TOO_LARGE",
        absl::StrCat("the safetensors header claims ", length,
                     " bytes; at most ", kMaxHeaderBytes, " are allowed"));
  }
  const int64_t header_bytes = static_cast<int64_t>(length);
  if (header_bytes > file.size_bytes() - kLengthBytes) {
    return Refuse("HEADER_LENGTH",
                  absl::StrCat("the safetensors header claims ", length,
                               " bytes, the file has ",
                               file.size_bytes() - kLengthBytes));
  }
  ASSIGN_OR_RETURN(const std::string text,
                   file.ReadString(kLengthBytes, header_bytes));
  const int64_t data_begin = kLengthBytes + header_bytes;
  ASSIGN_OR_RETURN(
      SafetensorsHeader header,
      ParseSafetensorsHeader(text, file.size_bytes() - data_begin));
  header.data_begin = data_begin;
  return header;
}

}  // namespace quantd::checkpoints
