// SPDX-License-Identifier: Apache-2.0
// Text data sets: .txt, .jsonl and .parquet files, and the bundled corpus. The
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
};

struct Corpus {
  std::vector<Document> documents;
  // SHA-256 of the file's bytes.
  std::string digest;
};

// A .txt file is one document: the whole file, byte for byte. A .jsonl row is
// {"text": ...} or {"input_ids": [...]}; a Parquet file has a column of one of
// these names. INVALID_ARGUMENT with DATA_* reasons naming the row.
absl::StatusOr<Corpus> ReadCorpus(const std::string& path);

// Resolves "bundled" to the file shipped with quantd; other names are paths.
absl::StatusOr<std::string> ResolveDataset(const std::string& name);

}  // namespace quantd::data
