// SPDX-License-Identifier: Apache-2.0
// Text to token ids through the Hugging Face tokenizers library, so that ids
// are exactly those of the model's own tooling. Vocabularies of GGUF files and
// SentencePiece models are converted to its JSON form.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::tokenizers {

// Thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // `add_special_tokens`: as the model's tokenizer does by default, for example
  // one BOS at the start for Llama-2. INVALID_ARGUMENT for text that is not
  // UTF-8.
  virtual absl::StatusOr<std::vector<int64_t>> Encode(
      absl::string_view text, bool add_special_tokens) const = 0;
  virtual absl::StatusOr<std::string> Decode(
      const std::vector<int64_t>& ids) const = 0;
  virtual int64_t vocabulary_size() const = 0;
  // -1 where there is none.
  virtual int64_t bos_id() const = 0;
  virtual int64_t eos_id() const = 0;
  // SHA-256 of the tokenizer's JSON form.
  virtual const std::string& digest() const = 0;
  // The JSON form itself: what an export writes as tokenizer.json.
  virtual const std::string& json() const = 0;
};

// From a model's files by name ("tokenizer.json", "tokenizer.model",
// "vocab.json" + "merges.txt", "tokenizer_config.json"), or, where `metadata`
// has tokenizer.ggml.* keys, from a GGUF file. NOT_FOUND, TOKENIZER_MISSING;
// INVALID_ARGUMENT, TOKENIZER_INVALID.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(
    const std::map<std::string, std::string>& files,
    const nlohmann::json& metadata);

// From the text of a tokenizer.json.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(
    absl::string_view json);

}  // namespace quantd::tokenizers
