// SPDX-License-Identifier: Apache-2.0
#include "worker/data/documents.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/base/atomic_file.h"
#include "proto/base/digest.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/data/rows.h"

namespace quantd::data {
namespace {

constexpr char kRowSeparator[] = "\n\n";

absl::StatusOr<std::vector<Document>> ReadText(std::string bytes) {
  const int64_t invalid = FirstInvalidUtf8(bytes);
  if (invalid >= 0) {
    return DataError("DATA_NOT_UTF8", 0,
                     absl::StrCat("byte ", invalid, " is not UTF-8"));
  }
  std::vector<Document> documents(1);
  documents[0].text = std::move(bytes);
  return documents;
}

absl::Status CheckOneKind(const std::vector<Document>& documents) {
  const bool ids = !documents.front().input_ids.empty();
  for (const Document& document : documents) {
    if (ids != !document.input_ids.empty()) {
      return DataError("DATA_MIXED_ROWS", document.row,
                       "a file has either text or input_ids in all its rows");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Document>> ReadRows(std::string bytes) {
  if (IsParquet(bytes)) return ReadParquet(bytes);
  if (IsJsonLines(bytes)) return ReadJsonLines(bytes);
  return ReadText(std::move(bytes));
}

absl::StatusOr<std::vector<Document>> ReadDocuments(std::string bytes) {
  if (bytes.empty()) return DataError("DATA_EMPTY", 0, "the file is empty");
  ASSIGN_OR_RETURN(std::vector<Document> documents, ReadRows(std::move(bytes)));
  if (documents.empty()) {
    return DataError("DATA_EMPTY", 0, "the file has no rows");
  }
  RETURN_IF_ERROR(CheckOneKind(documents));
  return documents;
}

absl::Status InDataSet(const absl::Status& status, const std::string& name) {
  return base::AddContext(status, absl::StrCat("data set \"", name, "\""));
}

}  // namespace

absl::StatusOr<Corpus> ReadCorpus(const std::string& path) {
  absl::StatusOr<std::string> bytes = base::ReadFile(path, kMaxFileBytes);
  if (!bytes.ok()) return base::AddContext(bytes.status(), "the data set");
  Corpus corpus;
  corpus.digest = base::Sha256Hex(*bytes);
  corpus.name = std::filesystem::path(path).filename();
  auto documents = ReadDocuments(*std::move(bytes));
  if (!documents.ok()) return InDataSet(documents.status(), corpus.name);
  corpus.documents = *std::move(documents);
  return corpus;
}

absl::Status CheckIds(const Corpus& corpus, int64_t vocabulary_size) {
  for (const Document& document : corpus.documents) {
    for (size_t i = 0; i < document.input_ids.size(); ++i) {
      const int64_t id = document.input_ids[i];
      if (id >= 0 && id < vocabulary_size) continue;
      return InDataSet(
          DataError("TOKEN_OUT_OF_RANGE", document.row,
                    absl::StrCat("input_ids[", i, "] is ", id,
                                 ", and the model's vocabulary has the ids 0 "
                                 "to ",
                                 vocabulary_size - 1,
                                 "; the ids are another tokenizer's")),
          corpus.name);
    }
  }
  return absl::OkStatus();
}

std::string JoinedText(const Corpus& corpus) {
  return absl::StrJoin(corpus.documents, kRowSeparator,
                       [](std::string* out, const Document& document) {
                         out->append(document.text);
                       });
}

std::vector<int64_t> JoinedIds(const Corpus& corpus) {
  std::vector<int64_t> ids;
  for (const Document& document : corpus.documents) {
    ids.insert(ids.end(), document.input_ids.begin(), document.input_ids.end());
  }
  return ids;
}

std::string JoinedWikiTextRows(const std::string& raw) {
  std::string joined;
  size_t start = 0;
  while (start < raw.size()) {
    const size_t newline = raw.find('\n', start);
    const size_t end = newline == std::string::npos ? raw.size() : newline + 1;
    const absl::string_view line(raw.data() + start, end - start);
    if (start > 0) joined.append(kRowSeparator);
    if (line != " \n") joined.append(line.data(), line.size());
    start = end;
  }
  return joined;
}

absl::Status DataError(absl::string_view reason, int64_t row,
                       absl::string_view what) {
  if (row == 0) {
    return base::MakeError(absl::StatusCode::kInvalidArgument, reason, what);
  }
  return base::MakeError(absl::StatusCode::kInvalidArgument, reason,
                         absl::StrCat("row ", row, ": ", what),
                         {{"row", absl::StrCat(row)}});
}

absl::Status InvalidId(int64_t row, size_t index, absl::string_view value) {
  constexpr size_t kShown = 32;
  return DataError(
      "DATA_TOKEN_INVALID", row,
      absl::StrCat("input_ids[", index, "] is ", value.substr(0, kShown),
                   ", which is no token id"));
}

}  // namespace quantd::data
