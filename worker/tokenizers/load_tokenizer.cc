// SPDX-License-Identifier: Apache-2.0
// Which of a model's files is its tokenizer, and how tokenizer_config.json
// changes it.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/tokenizers/gguf_vocabulary.h"
#include "worker/tokenizers/hf_tokenizer.h"
#include "worker/tokenizers/sentencepiece_model.h"
#include "worker/tokenizers/tokenizer.h"
#include "worker/tokenizers/tokenizer_config.h"
#include "worker/tokenizers/vocabulary.h"

namespace quantd::tokenizers {
namespace {

using nlohmann::json;
using Files = std::map<std::string, std::string>;
using Result = absl::StatusOr<std::unique_ptr<Tokenizer>>;

constexpr int64_t kMaxFileBytes = int64_t{64} << 20;

absl::StatusOr<std::string> Read(const Files& files, const std::string& name) {
  absl::StatusOr<std::string> text =
      base::ReadFile(files.at(name), kMaxFileBytes);
  if (!text.ok()) return base::AddContext(text.status(), name);
  return text;
}

absl::StatusOr<TokenizerConfig> ReadConfig(const Files& files) {
  if (files.count("tokenizer_config.json") == 0) return TokenizerConfig{};
  ASSIGN_OR_RETURN(const std::string text,
                   Read(files, "tokenizer_config.json"));
  return ParseTokenizerConfig(text);
}

int64_t FindText(const std::vector<Token>& tokens, const std::string& text) {
  for (const Token& token : tokens) {
    if (!text.empty() && token.text == text) return token.id;
  }
  return -1;
}

// Adds the config's added tokens, and marks those that are there already.
void AddTokens(const std::vector<Token>& added, std::vector<Token>* tokens) {
  for (const Token& token : added) {
    const auto same =
        std::find_if(tokens->begin(), tokens->end(),
                     [&](const Token& t) { return t.text == token.text; });
    if (same == tokens->end()) {
      tokens->push_back(token);
    } else if (same->kind != TokenKind::kUnknown) {
      same->kind = token.kind;
    }
  }
}

// Special tokens that the config names are never cut into pieces.
void MarkSpecial(const TokenizerConfig& config, std::vector<Token>* tokens) {
  for (Token& token : *tokens) {
    if (!token.text.empty() &&
        (token.text == config.bos_token || token.text == config.eos_token ||
         token.text == config.unk_token)) {
      token.kind = TokenKind::kControl;
    }
  }
}

void ApplyConfig(const TokenizerConfig& config,
                 const std::vector<Token>& tokens, SpecialTokens* special) {
  const int64_t bos = FindText(tokens, config.bos_token);
  const int64_t eos = FindText(tokens, config.eos_token);
  if (bos >= 0) special->bos = bos;
  if (eos >= 0) special->eos = eos;
  special->add_bos =
      config.add_bos_token.value_or(special->add_bos) && special->bos >= 0;
  special->add_eos =
      config.add_eos_token.value_or(special->add_eos) && special->eos >= 0;
}

// The tokenizer of `text` with another post-processor.
Result WithTemplate(const std::string& text, const TokenizerConfig& config,
                    const SpecialTokens& special) {
  json document = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object()) {
    return InvalidTokenizer("tokenizer.json is not a JSON object");
  }
  document["post_processor"] = nullptr;
  if (special.add_bos || special.add_eos) {
    document["post_processor"] = json::parse(
        TemplateJson(special, {config.bos_token, config.eos_token}));
  }
  return MakeHfTokenizer({document.dump(), special.bos, special.eos});
}

// A tokenizer.json keeps its own post-processor unless the config says
// add_bos_token or add_eos_token and the file does otherwise.
Result FromJson(const Files& files, const TokenizerConfig& config) {
  ASSIGN_OR_RETURN(const std::string text, Read(files, "tokenizer.json"));
  ASSIGN_OR_RETURN(
      std::unique_ptr<Tokenizer> tokenizer,
      MakeHfTokenizer({text}, {config.bos_token, config.eos_token}));
  SpecialTokens special;
  special.bos = tokenizer->bos_id();
  special.eos = tokenizer->eos_id();
  ASSIGN_OR_RETURN(const std::vector<int64_t> around,
                   tokenizer->Encode("", /*add_special_tokens=*/true));
  const bool adds_bos = !around.empty() && around.front() == special.bos;
  const bool adds_eos =
      around.size() > (adds_bos ? 1 : 0) && around.back() == special.eos;
  special.add_bos = config.add_bos_token.value_or(adds_bos) && special.bos >= 0;
  special.add_eos = config.add_eos_token.value_or(adds_eos) && special.eos >= 0;
  if (special.add_bos == adds_bos && special.add_eos == adds_eos) {
    return tokenizer;
  }
  return WithTemplate(text, config, special);
}

Result FromSentencePiece(const Files& files, const TokenizerConfig& config) {
  ASSIGN_OR_RETURN(const std::string bytes, Read(files, "tokenizer.model"));
  ASSIGN_OR_RETURN(PieceVocabulary vocabulary, ReadSentencePieceModel(bytes));
  AddTokens(config.added_tokens, &vocabulary.tokens);
  ApplyConfig(config, vocabulary.tokens, &vocabulary.special);
  ASSIGN_OR_RETURN(TokenizerForm form, FormOf(vocabulary));
  return MakeHfTokenizer(std::move(form));
}

absl::StatusOr<std::vector<Token>> ParseVocabulary(absl::string_view text) {
  const json object = json::parse(text.begin(), text.end(), nullptr,
                                  /*allow_exceptions=*/false);
  if (!object.is_object()) {
    return InvalidTokenizer("vocab.json is not a JSON object");
  }
  std::vector<Token> tokens;
  for (const auto& [token, id] : object.items()) {
    if (!id.is_number_unsigned()) {
      return InvalidTokenizer("vocab.json has an id that is no whole number");
    }
    tokens.push_back({id.get<int64_t>(), token});
  }
  std::sort(tokens.begin(), tokens.end(),
            [](const Token& a, const Token& b) { return a.id < b.id; });
  return tokens;
}

absl::Status ParseMerges(absl::string_view text, MergeVocabulary* vocabulary) {
  int64_t row = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++row;
    absl::ConsumeSuffix(&line, "\r");
    if (line.empty() || (row == 1 && absl::StartsWith(line, "#version"))) {
      continue;
    }
    const size_t space = line.find(' ', 1);
    if (space == absl::string_view::npos || space + 1 == line.size()) {
      return InvalidTokenizer(
          absl::StrCat("line ", row, " of merges.txt is no pair"));
    }
    if (static_cast<int64_t>(vocabulary->merges.size()) == kMaxMerges) {
      return TokenizerError("TOKENIZER_TOO_LARGE",
                            "merges.txt has too many lines");
    }
    vocabulary->merges.emplace_back(line.substr(0, space),
                                    line.substr(space + 1));
  }
  return absl::OkStatus();
}

Result FromMerges(const Files& files, const TokenizerConfig& config) {
  MergeVocabulary vocabulary;
  ASSIGN_OR_RETURN(const std::string tokens, Read(files, "vocab.json"));
  ASSIGN_OR_RETURN(vocabulary.tokens, ParseVocabulary(tokens));
  ASSIGN_OR_RETURN(const std::string merges, Read(files, "merges.txt"));
  RETURN_IF_ERROR(ParseMerges(merges, &vocabulary));
  AddTokens(config.added_tokens, &vocabulary.tokens);
  MarkSpecial(config, &vocabulary.tokens);
  ApplyConfig(config, vocabulary.tokens, &vocabulary.special);
  // The pattern is part of the class's code, not of these files.
  vocabulary.pre_tokenizer =
      absl::StartsWith(config.tokenizer_class, "Qwen2") ? "qwen2" : "gpt-2";
  ASSIGN_OR_RETURN(TokenizerForm form, FormOf(vocabulary));
  return MakeHfTokenizer(std::move(form));
}

}  // namespace

Result LoadTokenizer(const Files& files, const json& metadata) {
  const auto has = [&](const char* name) { return files.count(name) != 0; };
  ASSIGN_OR_RETURN(const TokenizerConfig config, ReadConfig(files));
  if (has("tokenizer.json")) return FromJson(files, config);
  if (has("tokenizer.model")) return FromSentencePiece(files, config);
  if (has("vocab.json") && has("merges.txt")) return FromMerges(files, config);
  if (HasGgufVocabulary(metadata)) {
    ASSIGN_OR_RETURN(TokenizerForm form, ReadGgufVocabulary(metadata));
    return MakeHfTokenizer(std::move(form));
  }
  return base::MakeError(
      absl::StatusCode::kNotFound, "TOKENIZER_MISSING",
      "the model has no tokenizer: tokenizer.json, tokenizer.model, or "
      "vocab.json with merges.txt is expected beside its weights");
}

}  // namespace quantd::tokenizers
