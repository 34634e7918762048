// SPDX-License-Identifier: Apache-2.0
// Parquet files written by Arrow's own writer.
#include <arrow/api.h>
#include <arrow/io/memory.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <parquet/arrow/writer.h>

#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "tests/support/test_data.h"
#include "worker/data/documents.h"

namespace quantd::data {
namespace {

using testing::ElementsAre;

std::string FileOf(const std::shared_ptr<arrow::Field>& field,
                   const std::shared_ptr<arrow::Array>& values) {
  const auto table = arrow::Table::Make(arrow::schema({field}), {values});
  const auto sink = arrow::io::BufferOutputStream::Create().ValueOrDie();
  const arrow::Status status = parquet::arrow::WriteTable(
      *table, arrow::default_memory_pool(), sink, /*chunk_size=*/2);
  EXPECT_TRUE(status.ok()) << status.message();
  return sink->Finish().ValueOrDie()->ToString();
}

// A null stands for a null.
std::string TextFile(const std::vector<const char*>& texts,
                     const std::string& column = "text") {
  arrow::StringBuilder builder;
  for (const char* text : texts) {
    EXPECT_TRUE(
        (text == nullptr ? builder.AppendNull() : builder.Append(text)).ok());
  }
  return FileOf(arrow::field(column, arrow::utf8()),
                builder.Finish().ValueOrDie());
}

template <typename Builder>
std::string IdFile(const std::vector<std::vector<int64_t>>& rows) {
  const auto values = std::make_shared<Builder>();
  arrow::ListBuilder lists(arrow::default_memory_pool(), values);
  for (const std::vector<int64_t>& row : rows) {
    EXPECT_TRUE(lists.Append().ok());
    for (const int64_t id : row) EXPECT_TRUE(values->Append(id).ok());
  }
  const auto array = lists.Finish().ValueOrDie();
  return FileOf(arrow::field("input_ids", array->type()), array);
}

absl::StatusOr<Corpus> Read(const std::string& bytes) {
  const support::TemporaryDirectory folder;
  const std::string path = folder.File("corpus.txt");
  EXPECT_TRUE(base::WriteFileAtomically(path, bytes).ok());
  return ReadCorpus(path);
}

std::string ReasonOf(const std::string& bytes) {
  const auto corpus = Read(bytes);
  EXPECT_EQ(corpus.status().code(), absl::StatusCode::kInvalidArgument);
  return base::ErrorReason(corpus.status());
}

TEST(Parquet, TextRowsKeepTheirOrderOverRowGroups) {
  const auto corpus = Read(TextFile({"", " one \n", "\xc3\xa9", "four"}));
  ASSERT_TRUE(corpus.ok()) << corpus.status();
  EXPECT_EQ(JoinedText(*corpus), "\n\n one \n\n\n\xc3\xa9\n\nfour");
}

TEST(Parquet, IdsAreReadFromBothWidths) {
  for (const std::string& bytes :
       {IdFile<arrow::Int32Builder>({{1, 2}, {3}, {4, 5, 6}}),
        IdFile<arrow::Int64Builder>({{1, 2}, {3}, {4, 5, 6}})}) {
    const auto corpus = Read(bytes);
    ASSERT_TRUE(corpus.ok()) << corpus.status();
    ASSERT_EQ(corpus->documents.size(), 3u);
    EXPECT_THAT(corpus->documents[2].input_ids, ElementsAre(4, 5, 6));
    EXPECT_THAT(JoinedIds(*corpus), ElementsAre(1, 2, 3, 4, 5, 6));
  }
}

TEST(Parquet, RowsThatHoldNothingUsableAreRefused) {
  EXPECT_EQ(ReasonOf(TextFile({"a", nullptr})), "DATA_FIELD_MISSING");
  EXPECT_EQ(ReasonOf(TextFile({"a"}, "body")), "DATA_FIELD_MISSING");
  EXPECT_EQ(ReasonOf(TextFile({"a", "\xff"})), "DATA_NOT_UTF8");
  EXPECT_EQ(ReasonOf(TextFile({})), "DATA_EMPTY");
  EXPECT_EQ(ReasonOf(IdFile<arrow::Int32Builder>({{1}, {}})),
            "DATA_TOKEN_INVALID");
  EXPECT_EQ(ReasonOf(IdFile<arrow::Int64Builder>({{1}, {-2}})),
            "DATA_TOKEN_INVALID");
}

TEST(Parquet, ARefusalNamesFileRowAndValue) {
  const auto negative = Read(IdFile<arrow::Int64Builder>({{1}, {2}, {3, -2}}));
  EXPECT_EQ(base::GetErrorMetadata(negative.status())["row"], "3");
  EXPECT_EQ(negative.status().message(),
            "data set \"corpus.txt\": row 3: input_ids[1] is -2, which is no "
            "token id");
  // Row groups hold two rows: the row is counted over all of them.
  const auto ids = Read(IdFile<arrow::Int32Builder>({{1}, {2}, {3}, {4, 99}}));
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_TRUE(CheckIds(*ids, 100).ok());
  const absl::Status beyond = CheckIds(*ids, 99);
  EXPECT_EQ(base::ErrorReason(beyond), "TOKEN_OUT_OF_RANGE");
  EXPECT_EQ(base::GetErrorMetadata(beyond)["row"], "4");
  EXPECT_THAT(std::string(beyond.message()),
              testing::HasSubstr("input_ids[1] is 99"));
}

TEST(Parquet, IdsOfAnotherTypeAreRefused) {
  const auto values = std::make_shared<arrow::DoubleBuilder>();
  arrow::ListBuilder lists(arrow::default_memory_pool(), values);
  ASSERT_TRUE(lists.Append().ok());
  ASSERT_TRUE(values->Append(1.0).ok());
  const auto array = lists.Finish().ValueOrDie();
  EXPECT_EQ(ReasonOf(FileOf(arrow::field("input_ids", array->type()), array)),
            "DATA_FIELD_MISSING");
}

TEST(Parquet, DamagedFilesAreRefused) {
  const std::string whole = TextFile({"one", "two", "three"});
  EXPECT_EQ(ReasonOf("PAR1"), "DATA_PARQUET_INVALID");
  EXPECT_EQ(ReasonOf("PAR1 and then no footer at all"), "DATA_PARQUET_INVALID");
  for (const size_t size : {whole.size() - 1, whole.size() / 2}) {
    EXPECT_EQ(ReasonOf(whole.substr(0, size)), "DATA_PARQUET_INVALID");
  }
}

}  // namespace
}  // namespace quantd::data
