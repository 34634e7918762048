// SPDX-License-Identifier: Apache-2.0
// Text data sets: .txt, .jsonl and .parquet files, and the bundled corpora. The
// container is found by content, not by name. Rows come from strangers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace quantd::data {

// One row: text, or ready-made token ids.
struct Document {
  std::string text;
  // Empty where the row has text.
  std::vector<int64_t> input_ids;
  // Where it stands in its file, from 1; for .jsonl the line.
  int64_t row = 1;
};

// Either every document has text or every document has ids.
struct Corpus {
  std::vector<Document> documents;
  // SHA-256 of the file's bytes.
  std::string digest;
  // The file's name without its folders.
  std::string name;

  bool has_ids() const {
    return !documents.empty() && !documents.front().input_ids.empty();
  }
};

// A .txt file is one document: the whole file, byte for byte. A .jsonl row is
// {"text": ...} or {"input_ids": [...]}; a Parquet file has a column of one of
// these names; where a row has both, the ids count. INVALID_ARGUMENT with
// DATA_* reasons naming the file and the row.
absl::StatusOr<Corpus> ReadCorpus(const std::string& path);

// OK where every id is below `vocabulary_size`, and for a corpus of texts.
// INVALID_ARGUMENT, TOKEN_OUT_OF_RANGE, naming file, row and id.
absl::Status CheckIds(const Corpus& corpus, int64_t vocabulary_size);

// Resolves "bundled" and "bundled-heldout" to the files shipped with quantd,
// "wikitext2", "c4" and their splits to files below $QUANTD_DATASETS
// (docs/data.md); other names are paths. NOT_FOUND, DATASET_MISSING.
absl::StatusOr<std::string> ResolveDataset(const std::string& name);

// The documents' texts joined by two newlines.
std::string JoinedText(const Corpus& corpus);
// The documents' ids, one after another.
std::vector<int64_t> JoinedIds(const Corpus& corpus);
// The rows of the WikiText data set made again from the text of its raw file (a
// line of one space is an empty row, any other line is a row with its newline)
// and joined by two newlines: the text that the GPTQ paper's perplexity is of.
std::string JoinedWikiTextRows(const std::string& raw);

}  // namespace quantd::data
