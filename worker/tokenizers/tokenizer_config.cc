// SPDX-License-Identifier: Apache-2.0
#include "worker/tokenizers/tokenizer_config.h"

#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "proto/base/status_macros.h"

namespace quantd::tokenizers {
namespace {

using nlohmann::json;

// A special token is written as its text or as {"content": text}.
std::string SpecialText(const json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_object()) return "";
  const auto content = found->find("content");
  if (content == found->end() || !content->is_string()) return "";
  return content->get<std::string>();
}

std::optional<bool> Flag(const json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end() || !found->is_boolean()) return std::nullopt;
  return found->get<bool>();
}

absl::StatusOr<std::vector<Token>> AddedTokens(const json& config) {
  std::vector<Token> tokens;
  const auto found = config.find("added_tokens_decoder");
  if (found == config.end() || !found->is_object()) return tokens;
  for (const auto& [key, value] : found->items()) {
    Token token;
    if (!absl::SimpleAtoi(key, &token.id) || !value.is_object()) {
      return InvalidTokenizer("added_tokens_decoder is not a map of ids");
    }
    const auto content = value.find("content");
    if (content == value.end() || !content->is_string()) {
      return InvalidTokenizer("an added token has no content");
    }
    token.text = content->get<std::string>();
    token.kind = Flag(value, "special").value_or(false)
                     ? TokenKind::kControl
                     : TokenKind::kUserDefined;
    tokens.push_back(std::move(token));
  }
  return tokens;
}

}  // namespace

absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(absl::string_view text) {
  const json config = json::parse(text.begin(), text.end(), nullptr,
                                  /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return InvalidTokenizer("tokenizer_config.json is not a JSON object");
  }
  TokenizerConfig result;
  const auto name = config.find("tokenizer_class");
  if (name != config.end() && name->is_string()) {
    result.tokenizer_class = name->get<std::string>();
  }
  result.bos_token = SpecialText(config, "bos_token");
  result.eos_token = SpecialText(config, "eos_token");
  result.unk_token = SpecialText(config, "unk_token");
  result.add_bos_token = Flag(config, "add_bos_token");
  result.add_eos_token = Flag(config, "add_eos_token");
  ASSIGN_OR_RETURN(result.added_tokens, AddedTokens(config));
  return result;
}

}  // namespace quantd::tokenizers
