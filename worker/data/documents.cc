// SPDX-License-Identifier: Apache-2.0
#include "worker/data/documents.h"

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
  for (size_t i = 1; i < documents.size(); ++i) {
    if (ids != !documents[i].input_ids.empty()) {
      return DataError("DATA_MIXED_ROWS", static_cast<int64_t>(i) + 1,
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

}  // namespace

absl::StatusOr<Corpus> ReadCorpus(const std::string& path) {
  absl::StatusOr<std::string> bytes = base::ReadFile(path, kMaxFileBytes);
  if (!bytes.ok()) return base::AddContext(bytes.status(), "the data set");
  if (bytes->empty()) return DataError("DATA_EMPTY", 0, "the file is empty");
  Corpus corpus;
  corpus.digest = base::Sha256Hex(*bytes);
  ASSIGN_OR_RETURN(corpus.documents, ReadRows(*std::move(bytes)));
  if (corpus.documents.empty()) {
    return DataError("DATA_EMPTY", 0, "the file has no rows");
  }
  RETURN_IF_ERROR(CheckOneKind(corpus.documents));
  return corpus;
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
  base::ErrorMetadata metadata;
  std::string where = "the data set";
  if (row > 0) {
    metadata["row"] = absl::StrCat(row);
    absl::StrAppend(&where, ", row ", row);
  }
  return base::MakeError(absl::StatusCode::kInvalidArgument, reason,
                         absl::StrCat(where, ": ", what), metadata);
}

}  // namespace quantd::data
