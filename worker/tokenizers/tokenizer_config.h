// SPDX-License-Identifier: Apache-2.0
// The settings of tokenizer_config.json that change ids.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/tokenizers/vocabulary.h"

namespace quantd::tokenizers {

struct TokenizerConfig {
  std::string tokenizer_class;
  // Texts of tokens; empty where there is none.
  std::string bos_token;
  std::string eos_token;
  std::string unk_token;
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  // added_tokens_decoder: control tokens are those marked special.
  std::vector<Token> added_tokens;
};

// INVALID_ARGUMENT, TOKENIZER_INVALID.
absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(absl::string_view text);

}  // namespace quantd::tokenizers
