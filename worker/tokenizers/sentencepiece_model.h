// SPDX-License-Identifier: Apache-2.0
// SentencePiece model files (tokenizer.model), BPE and unigram.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/tokenizers/vocabulary.h"

namespace quantd::tokenizers {

// Reads the protobuf in `bytes`. Special tokens are those of the trainer's
// settings; add_bos is set where there is a BOS. INVALID_ARGUMENT:
// TOKENIZER_INVALID for bytes that are no such model, TOKENIZER_TOO_LARGE,
// TOKENIZER_UNSUPPORTED for the word and char kinds.
absl::StatusOr<PieceVocabulary> ReadSentencePieceModel(absl::string_view bytes);

}  // namespace quantd::tokenizers
