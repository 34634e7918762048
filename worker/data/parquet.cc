// SPDX-License-Identifier: Apache-2.0
#include <arrow/api.h>
#include <arrow/io/memory.h>
#include <parquet/arrow/reader.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>
#include <parquet/metadata.h>

#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/base/status_macros.h"
#include "worker/data/rows.h"

namespace quantd::data {
namespace {

constexpr char kMagic[] = "PAR1";
constexpr int64_t kMaxUncompressedBytes = int64_t{4} << 30;

absl::Status Invalid(const std::string& what) {
  // Arrow's messages may span lines and name source files after the first.
  return DataError("DATA_PARQUET_INVALID", 0, what.substr(0, what.find('\n')));
}

absl::Status CheckSizes(const parquet::FileMetaData& metadata) {
  if (metadata.num_rows() < 0 || metadata.num_rows() > kMaxRows) {
    return DataError("DATA_TOO_LARGE", 0,
                     absl::StrCat("the file has ", metadata.num_rows(),
                                  " rows; at most ", kMaxRows, " are read"));
  }
  int64_t bytes = 0;
  for (int group = 0; group < metadata.num_row_groups(); ++group) {
    const int64_t size = metadata.RowGroup(group)->total_byte_size();
    if (size < 0 || size > kMaxUncompressedBytes - bytes) {
      return DataError("DATA_TOO_LARGE", 0,
                       absl::StrCat("the file expands to more than ",
                                    kMaxUncompressedBytes, " bytes"));
    }
    bytes += size;
  }
  return absl::OkStatus();
}

template <typename Array>
absl::Status AppendTexts(const arrow::Array& chunk,
                         std::vector<Document>* documents) {
  const auto& texts = static_cast<const Array&>(chunk);
  for (int64_t i = 0; i < texts.length(); ++i) {
    const auto row = static_cast<int64_t>(documents->size()) + 1;
    if (texts.IsNull(i)) {
      return DataError("DATA_FIELD_MISSING", row, "\"text\" is null");
    }
    const auto view = texts.GetView(i);
    const int64_t invalid = FirstInvalidUtf8({view.data(), view.size()});
    if (invalid >= 0) {
      return DataError("DATA_NOT_UTF8", row,
                       absl::StrCat("byte ", invalid, " is not UTF-8"));
    }
    documents->push_back(
        {.text = {view.data(), view.size()}, .input_ids = {}, .row = row});
  }
  return absl::OkStatus();
}

template <typename Values>
absl::Status AppendIds(const Values& values, int64_t begin, int64_t end,
                       std::vector<Document>* documents) {
  const auto row = static_cast<int64_t>(documents->size()) + 1;
  std::vector<int64_t> ids;
  for (int64_t i = begin; i < end; ++i) {
    const auto index = static_cast<size_t>(i - begin);
    if (values.IsNull(i)) return InvalidId(row, index, "null");
    const int64_t id = values.Value(i);
    if (id < 0 || id > std::numeric_limits<int32_t>::max()) {
      return InvalidId(row, index, absl::StrCat(id));
    }
    ids.push_back(id);
  }
  if (ids.empty()) {
    return DataError("DATA_TOKEN_INVALID", row,
                     "input_ids is not a list of at least one token id");
  }
  documents->push_back({.text = "", .input_ids = std::move(ids), .row = row});
  return absl::OkStatus();
}

// `List` is ListArray or LargeListArray; its values are int32 or int64.
template <typename List>
absl::Status AppendLists(const arrow::Array& chunk,
                         std::vector<Document>* documents) {
  const auto& lists = static_cast<const List&>(chunk);
  const arrow::Array& values = *lists.values();
  for (int64_t i = 0; i < lists.length(); ++i) {
    const int64_t begin = lists.value_offset(i);
    const int64_t end = lists.IsNull(i) ? begin : lists.value_offset(i + 1);
    if (values.type_id() == arrow::Type::INT32) {
      RETURN_IF_ERROR(AppendIds(static_cast<const arrow::Int32Array&>(values),
                                begin, end, documents));
    } else if (values.type_id() == arrow::Type::INT64) {
      RETURN_IF_ERROR(AppendIds(static_cast<const arrow::Int64Array&>(values),
                                begin, end, documents));
    } else {
      return DataError("DATA_FIELD_MISSING", 0,
                       "column input_ids is not a list of int32 or int64");
    }
  }
  return absl::OkStatus();
}

absl::Status AppendChunk(const arrow::Array& chunk,
                         std::vector<Document>* documents) {
  switch (chunk.type_id()) {
    case arrow::Type::STRING:
      return AppendTexts<arrow::StringArray>(chunk, documents);
    case arrow::Type::LARGE_STRING:
      return AppendTexts<arrow::LargeStringArray>(chunk, documents);
    case arrow::Type::LIST:
      return AppendLists<arrow::ListArray>(chunk, documents);
    case arrow::Type::LARGE_LIST:
      return AppendLists<arrow::LargeListArray>(chunk, documents);
    default:
      return DataError(
          "DATA_FIELD_MISSING", 0,
          absl::StrCat("the column has the type ", chunk.type()->ToString(),
                       ", which holds neither text nor ids"));
  }
}

// Offsets and lengths of a crafted file are checked before they are used. Texts
// are looked at as bytes: whether they are UTF-8 is reported with their row.
absl::Status CheckOffsets(const arrow::Array& chunk) {
  std::shared_ptr<arrow::DataType> type = chunk.type();
  if (type->id() == arrow::Type::STRING) type = arrow::binary();
  if (type->id() == arrow::Type::LARGE_STRING) type = arrow::large_binary();
  const auto bytes = chunk.View(type);
  if (!bytes.ok()) return Invalid(bytes.status().message());
  const arrow::Status status = (*bytes)->ValidateFull();
  return status.ok() ? absl::OkStatus() : Invalid(status.message());
}

absl::StatusOr<std::vector<Document>> ReadTable(
    parquet::arrow::FileReader* reader) {
  RETURN_IF_ERROR(CheckSizes(*reader->parquet_reader()->metadata()));
  std::shared_ptr<arrow::Schema> schema;
  arrow::Status status = reader->GetSchema(&schema);
  if (!status.ok()) return Invalid(status.message());
  int column = schema->GetFieldIndex("input_ids");
  if (column < 0) column = schema->GetFieldIndex("text");
  if (column < 0) {
    return DataError("DATA_FIELD_MISSING", 0,
                     "there is no column \"text\" or \"input_ids\"");
  }
  std::shared_ptr<arrow::ChunkedArray> values;
  status = reader->ReadColumn(column, &values);
  if (!status.ok()) return Invalid(status.message());
  std::vector<Document> documents;
  for (const auto& chunk : values->chunks()) {
    RETURN_IF_ERROR(CheckOffsets(*chunk));
    RETURN_IF_ERROR(AppendChunk(*chunk, &documents));
  }
  return documents;
}

}  // namespace

bool IsParquet(absl::string_view bytes) {
  return absl::StartsWith(bytes, kMagic);
}

absl::StatusOr<std::vector<Document>> ReadParquet(const std::string& bytes) {
  // The library throws from places that its Status does not reach.
  try {
    auto source = std::make_shared<arrow::io::BufferReader>(
        arrow::Buffer::FromString(bytes));
    parquet::arrow::FileReaderBuilder builder;
    arrow::Status status = builder.Open(source);
    if (!status.ok()) return Invalid(status.message());
    std::unique_ptr<parquet::arrow::FileReader> reader;
    status = builder.Build(&reader);
    if (!status.ok()) return Invalid(status.message());
    return ReadTable(reader.get());
  } catch (const std::exception& error) {
    return Invalid(error.what());
  }
}

}  // namespace quantd::data
