// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoints/gguf_header.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/checkpoints/gguf_cursor.h"

namespace quantd::checkpoints {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxTensors = 1'000'000;
constexpr uint64_t kMaxKeys = 65'536;
constexpr uint64_t kMaxKeyBytes = 65'535;
constexpr uint64_t kMaxNameBytes = 256;
// Chat templates are the longest strings in use.
constexpr uint64_t kMaxStringBytes = uint64_t{4} << 20;
// Of all arrays of a file together.
constexpr uint64_t kMaxArrayValues = 16'000'000;
constexpr uint32_t kMaxDims = 4;
constexpr int64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = uint64_t{1} << 20;
constexpr char kAlignmentKey[] = "general.alignment";

enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

std::string Quote(absl::string_view name) {
  return absl::StrCat("\"", name.substr(0, 80), "\"");
}

template <typename T>
absl::StatusOr<Json> Number(GgufCursor* cursor) {
  ASSIGN_OR_RETURN(const T value, cursor->Value<T>());
  return Json(value);
}

absl::StatusOr<Json> Boolean(GgufCursor* cursor) {
  ASSIGN_OR_RETURN(const uint8_t value, cursor->Value<uint8_t>());
  return Json(value != 0);
}

// A value that is no array.
absl::StatusOr<Json> Scalar(GgufCursor* cursor, uint32_t type) {
  switch (type) {
    case kUint8:
      return Number<uint8_t>(cursor);
    case kInt8:
      return Number<int8_t>(cursor);
    case kUint16:
      return Number<uint16_t>(cursor);
    case kInt16:
      return Number<int16_t>(cursor);
    case kUint32:
      return Number<uint32_t>(cursor);
    case kInt32:
      return Number<int32_t>(cursor);
    case kFloat32:
      return Number<float>(cursor);
    case kBool:
      return Boolean(cursor);
    case kString:
      return cursor->String(kMaxStringBytes);
    case kUint64:
      return Number<uint64_t>(cursor);
    case kInt64:
      return Number<int64_t>(cursor);
    case kFloat64:
      return Number<double>(cursor);
    default:
      return RefuseGguf("GGUF_VALUE_TYPE",
                        absl::StrCat("a metadata value has the type ", type,
                                     ", which cannot stand there"));
  }
}

// Parses metadata and tensor places in the order of the file.
class Parser {
 public:
  explicit Parser(const InputFile& file) : file_(file), cursor_(file) {}

  absl::StatusOr<GgufHeader> Parse() {
    RETURN_IF_ERROR(Magic());
    ASSIGN_OR_RETURN(const uint64_t num_tensors, cursor_.Value<uint64_t>());
    ASSIGN_OR_RETURN(const uint64_t num_keys, cursor_.Value<uint64_t>());
    if (num_tensors > kMaxTensors || num_keys > kMaxKeys) {
      return RefuseGguf("GGUF_COUNT",
                        absl::StrCat("the header claims ", num_tensors,
                                     " tensors and ", num_keys, " keys"));
    }
    for (uint64_t i = 0; i < num_keys; ++i) RETURN_IF_ERROR(KeyValue());
    ASSIGN_OR_RETURN(alignment_, Alignment());
    for (uint64_t i = 0; i < num_tensors; ++i) RETURN_IF_ERROR(Tensor());
    RETURN_IF_ERROR(CheckEnd());
    return std::move(header_);
  }

 private:
  absl::Status Magic() {
    char magic[4] = {};
    RETURN_IF_ERROR(cursor_.Bytes(magic, sizeof(magic)));
    if (absl::string_view(magic, sizeof(magic)) != "GGUF") {
      return RefuseGguf("GGUF_MAGIC", "the file does not begin with GGUF");
    }
    ASSIGN_OR_RETURN(const uint32_t version, cursor_.Value<uint32_t>());
    if (version == 2 || version == 3) return absl::OkStatus();
    return RefuseGguf(
        "GGUF_VERSION",
        absl::StrCat("the file has GGUF version ", version,
                     "; little-endian files of versions 2 and 3 are read"));
  }

  absl::Status KeyValue() {
    ASSIGN_OR_RETURN(std::string key, cursor_.String(kMaxKeyBytes));
    ASSIGN_OR_RETURN(const uint32_t type, cursor_.Value<uint32_t>());
    if (key.empty()) return RefuseGguf("GGUF_KEY", "a metadata key is empty");
    if (header_.metadata.contains(key)) {
      return RefuseGguf(
          "DUPLICATE_KEY",
          absl::StrCat("the metadata key ", Quote(key), " appears twice"));
    }
    auto value = type == kArray ? Array() : Scalar(&cursor_, type);
    if (!value.ok()) return base::AddContext(value.status(), Quote(key));
    if (key == kAlignmentKey && type != kUint32) {
      return RefuseGguf("GGUF_ALIGNMENT", "general.alignment is not a uint32");
    }
    header_.metadata[std::move(key)] = *std::move(value);
    return absl::OkStatus();
  }

  absl::StatusOr<Json> Array() {
    ASSIGN_OR_RETURN(const uint32_t type, cursor_.Value<uint32_t>());
    ASSIGN_OR_RETURN(const uint64_t count, cursor_.Value<uint64_t>());
    // Every value takes a byte or more.
    if (count > cursor_.remaining()) {
      return RefuseGguf("GGUF_TRUNCATED", "the file ends within its header");
    }
    if (count > kMaxArrayValues - array_values_) {
      return RefuseGguf("GGUF_ARRAY_TOO_LONG",
                        absl::StrCat("metadata arrays hold more than ",
                                     kMaxArrayValues, " values"));
    }
    array_values_ += count;
    Json array = Json::array();
    for (uint64_t i = 0; i < count; ++i) {
      ASSIGN_OR_RETURN(Json value, Scalar(&cursor_, type));
      array.push_back(std::move(value));
    }
    return array;
  }

  absl::StatusOr<int64_t> Alignment() const {
    const auto found = header_.metadata.find(kAlignmentKey);
    if (found == header_.metadata.end()) return kDefaultAlignment;
    const uint64_t alignment = found->get<uint64_t>();
    if (alignment == 0 || (alignment & (alignment - 1)) != 0 ||
        alignment > kMaxAlignment) {
      return RefuseGguf(
          "GGUF_ALIGNMENT",
          absl::StrCat("general.alignment is ", alignment,
                       " and no power of two up to ", kMaxAlignment));
    }
    return static_cast<int64_t>(alignment);
  }

  absl::Status Tensor() {
    GgufTensor tensor;
    ASSIGN_OR_RETURN(tensor.name, cursor_.String(kMaxNameBytes));
    if (tensor.name.empty()) {
      return RefuseGguf("TENSOR_NAME", "a tensor has no name");
    }
    if (!names_.insert(tensor.name).second) {
      return RefuseGguf(
          "DUPLICATE_KEY",
          absl::StrCat("tensor ", Quote(tensor.name), " appears twice"));
    }
    const absl::Status status = Place(&tensor);
    if (!status.ok()) {
      return base::AddContext(status,
                              absl::StrCat("tensor ", Quote(tensor.name)));
    }
    header_.tensors.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  absl::Status Place(GgufTensor* tensor) {
    RETURN_IF_ERROR(Dims(tensor));
    ASSIGN_OR_RETURN(const uint32_t type, cursor_.Value<uint32_t>());
    ASSIGN_OR_RETURN(const uint64_t offset, cursor_.Value<uint64_t>());
    tensor->type = FindGgufType(type);
    if (tensor->type == nullptr) {
      return RefuseGguf("GGUF_TYPE_UNKNOWN",
                        absl::StrCat("GGUF has no tensor type ", type));
    }
    if (tensor->type->dequantize == nullptr) {
      return RefuseGguf(
          "GGUF_TYPE_UNSUPPORTED",
          absl::StrCat("the type ", tensor->type->name,
                       " is not read; F32, F16, BF16, Q4_0 to Q8_0, "
                       "Q2_K to Q6_K, IQ4, TQ and MXFP4 are"));
    }
    RETURN_IF_ERROR(Size(tensor));
    // Offsets must follow each other, so nothing overlaps and nothing hides.
    if (offset != static_cast<uint64_t>(data_bytes_)) {
      return RefuseGguf(
          "GGUF_OFFSET",
          absl::StrCat("begins at ", offset, " and not at ", data_bytes_));
    }
    tensor->offset = data_bytes_;
    last_end_ = data_bytes_ + tensor->size_bytes;
    return Pad(last_end_, &data_bytes_);
  }

  // The file gives the innermost dimension first.
  absl::Status Dims(GgufTensor* tensor) {
    ASSIGN_OR_RETURN(const uint32_t num_dims, cursor_.Value<uint32_t>());
    if (num_dims == 0 || num_dims > kMaxDims) {
      return RefuseGguf("GGUF_SHAPE",
                        absl::StrCat(num_dims, " dimensions; 1 to ", kMaxDims,
                                     " are allowed"));
    }
    for (uint32_t i = 0; i < num_dims; ++i) {
      ASSIGN_OR_RETURN(const int64_t dim, cursor_.Value<int64_t>());
      if (dim < 1) {
        return RefuseGguf("GGUF_SHAPE",
                          absl::StrCat("a dimension of ", dim, " values"));
      }
      tensor->shape.insert(tensor->shape.begin(), dim);
    }
    return absl::OkStatus();
  }

  absl::Status Size(GgufTensor* tensor) const {
    const int64_t row = tensor->shape.back();
    if (row % tensor->type->block_values != 0) {
      return RefuseGguf("GGUF_SHAPE",
                        absl::StrCat("rows of ", row, " values are no whole ",
                                     tensor->type->name, " blocks"));
    }
    int64_t bytes = row / tensor->type->block_values;
    bool overflow =
        __builtin_mul_overflow(bytes, tensor->type->block_bytes, &bytes);
    int64_t values = row;
    for (size_t i = 0; i + 1 < tensor->shape.size(); ++i) {
      overflow |= __builtin_mul_overflow(bytes, tensor->shape[i], &bytes);
      overflow |= __builtin_mul_overflow(values, tensor->shape[i], &values);
    }
    if (overflow) {
      return RefuseGguf("SIZE_OVERFLOW", "the size does not fit into 63 bits");
    }
    // No allocation later is larger than the file by more than its blocks.
    if (bytes > file_.size_bytes()) {
      return RefuseGguf("GGUF_TRUNCATED",
                        absl::StrCat("takes ", bytes, " bytes of a file of ",
                                     file_.size_bytes()));
    }
    tensor->size_bytes = bytes;
    return absl::OkStatus();
  }

  absl::Status Pad(int64_t value, int64_t* padded) const {
    if (__builtin_add_overflow(value, alignment_ - 1, padded)) {
      return RefuseGguf("SIZE_OVERFLOW", "the offsets do not fit into 63 bits");
    }
    *padded &= ~(alignment_ - 1);
    return absl::OkStatus();
  }

  // Writers may or may not pad after the last tensor.
  absl::Status CheckEnd() {
    int64_t data_begin = cursor_.position();
    RETURN_IF_ERROR(Pad(data_begin, &data_begin));
    if (header_.tensors.empty()) return absl::OkStatus();
    if (last_end_ > file_.size_bytes() - data_begin) {
      return RefuseGguf("GGUF_TRUNCATED",
                        absl::StrCat("the header announces ", last_end_,
                                     " bytes of tensors, the file has ",
                                     file_.size_bytes() - data_begin));
    }
    if (data_bytes_ < file_.size_bytes() - data_begin) {
      return RefuseGguf("TRAILING_BYTES", "bytes follow the last tensor");
    }
    for (GgufTensor& tensor : header_.tensors) tensor.offset += data_begin;
    return absl::OkStatus();
  }

  const InputFile& file_;
  GgufCursor cursor_;
  GgufHeader header_;
  std::set<std::string> names_;
  int64_t alignment_ = kDefaultAlignment;
  uint64_t array_values_ = 0;
  int64_t last_end_ = 0;    // Of the tensors so far.
  int64_t data_bytes_ = 0;  // The same, padded: where the next one begins.
};

}  // namespace

absl::Status RefuseGguf(absl::string_view reason, absl::string_view message) {
  return base::MakeError(absl::StatusCode::kInvalidArgument, reason,
                         absl::StrCat("GGUF: ", message));
}

absl::StatusOr<GgufHeader> ReadGgufHeader(const InputFile& file) {
  return Parser(file).Parse();
}

}  // namespace quantd::checkpoints
