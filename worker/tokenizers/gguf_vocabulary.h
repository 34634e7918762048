// SPDX-License-Identifier: Apache-2.0
// The tokenizer.ggml.* keys of a GGUF file as a tokenizer.json.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "worker/tokenizers/vocabulary.h"

namespace quantd::tokenizers {

bool HasGgufVocabulary(const nlohmann::json& metadata);

// Models "llama" (SentencePiece BPE) and "gpt2" (byte-level BPE; a file that
// names no pre-tokenizer gets GPT-2's). INVALID_ARGUMENT: TOKENIZER_INVALID,
// TOKENIZER_UNSUPPORTED and those of FormOf.
absl::StatusOr<TokenizerForm> ReadGgufVocabulary(
    const nlohmann::json& metadata);

}  // namespace quantd::tokenizers
