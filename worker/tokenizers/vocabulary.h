// SPDX-License-Identifier: Apache-2.0
// Vocabularies that are not stored as tokenizer.json, and the JSON form made
// of them. The readers of GGUF metadata, of SentencePiece models and of
// vocab.json + merges.txt fill these structs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::tokenizers {

// Bounds on what a file from a stranger may ask for.
inline constexpr int64_t kMaxTokens = int64_t{1} << 22;
inline constexpr int64_t kMaxMerges = int64_t{1} << 23;
// Merges of a SentencePiece vocabulary are found by trying every split of every
// piece, which is quadratic in its length.
inline constexpr int64_t kMaxPieceBytes = 512;

// The values are those of both SentencePiece and GGUF.
enum class TokenKind {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

struct Token {
  int64_t id = 0;
  std::string text;
  float score = 0;
  TokenKind kind = TokenKind::kNormal;
};

// Ids of special tokens, -1 where there is none, and which of them are put
// around a text.
struct SpecialTokens {
  int64_t bos = -1;
  int64_t eos = -1;
  int64_t unknown = -1;
  bool add_bos = false;
  bool add_eos = false;
};

// A SentencePiece vocabulary: BPE by score, or unigram.
struct PieceVocabulary {
  std::vector<Token> tokens;
  SpecialTokens special;
  bool unigram = false;
  // A space is put before the text.
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = false;
  // SentencePiece's compiled normalization rules; empty for identity.
  std::string charsmap;
};

// A byte-level BPE vocabulary with ranked merges, as GPT-2's.
struct MergeVocabulary {
  std::vector<Token> tokens;
  // Left and right part, best first.
  std::vector<std::pair<std::string, std::string>> merges;
  SpecialTokens special;
  // A name known to pre_tokenizers.h.
  std::string pre_tokenizer;
};

// The JSON form and what it does not say.
struct TokenizerForm {
  std::string json;
  int64_t bos_id = -1;
  int64_t eos_id = -1;
};

// INVALID_ARGUMENT: TOKENIZER_INVALID, TOKENIZER_DUPLICATE_TOKEN,
// TOKENIZER_TOO_LARGE, TOKENIZER_UNSUPPORTED.
absl::StatusOr<TokenizerForm> FormOf(const PieceVocabulary& vocabulary);
absl::StatusOr<TokenizerForm> FormOf(const MergeVocabulary& vocabulary);

// The JSON text of a post-processor that puts BOS and EOS around a text: at
// least one of add_bos and add_eos is set. `texts` are the tokens' texts.
struct SpecialTexts {
  std::string bos;
  std::string eos;
};
std::string TemplateJson(const SpecialTokens& special,
                         const SpecialTexts& texts);

// INVALID_ARGUMENT with `reason`; `what` says what is wrong.
absl::Status TokenizerError(absl::string_view reason, absl::string_view what);
absl::Status InvalidTokenizer(absl::string_view what);

}  // namespace quantd::tokenizers
