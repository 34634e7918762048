// SPDX-License-Identifier: Apache-2.0
// How byte-level BPE vocabularies cut a text before merging, by the names that
// GGUF files give in tokenizer.ggml.pre.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::tokenizers {

struct PreTokenizer {
  // Applied one after another; matches and what lies between them are pieces.
  std::vector<std::string> patterns;
  // A piece that is a token as a whole is not merged up to.
  bool ignore_merges = false;
  // BOS is put before a text unless the file says otherwise.
  bool adds_bos = false;
  // Texts are brought to Unicode's composed form first.
  bool nfc = false;
};

// INVALID_ARGUMENT, TOKENIZER_UNSUPPORTED, naming the names there are.
absl::StatusOr<PreTokenizer> FindPreTokenizer(absl::string_view name);

// The "pre_tokenizer" of a tokenizer.json.
nlohmann::json PreTokenizerJson(const PreTokenizer& pre);

}  // namespace quantd::tokenizers
