// SPDX-License-Identifier: Apache-2.0
#include "worker/tokenizers/gguf_vocabulary.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "proto/base/status_macros.h"
#include "worker/tokenizers/pre_tokenizers.h"

namespace quantd::tokenizers {
namespace {

using nlohmann::json;

// Typed access to one file's keys, all of them optional unless asked for with
// Required. Wrong types are refused, not coerced.
class Keys {
 public:
  explicit Keys(const json& metadata) : metadata_(metadata) {}

  const json* Find(absl::string_view name) const {
    const auto found = metadata_.find(absl::StrCat("tokenizer.ggml.", name));
    return found == metadata_.end() ? nullptr : &*found;
  }

  absl::StatusOr<std::string> String(absl::string_view name,
                                     absl::string_view otherwise) const {
    const json* value = Find(name);
    if (value == nullptr) return std::string(otherwise);
    if (!value->is_string()) return WrongType(name, "a string");
    return value->get<std::string>();
  }

  absl::StatusOr<bool> Bool(absl::string_view name, bool otherwise) const {
    const json* value = Find(name);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) return WrongType(name, "a boolean");
    return value->get<bool>();
  }

  // A token id below `tokens`, or -1 where the key is absent.
  absl::StatusOr<int64_t> Id(absl::string_view name, size_t tokens) const {
    const json* value = Find(name);
    if (value == nullptr) return -1;
    if (!value->is_number_integer()) return WrongType(name, "an integer");
    // Converters write 0xffffffff or -1 for "none".
    const int64_t id = value->get<int64_t>();
    if (id == -1 || id == 0xffffffff) return -1;
    if (id < 0 || id >= static_cast<int64_t>(tokens)) {
      return InvalidTokenizer(
          absl::StrCat(name, " is ", id, " but there are ", tokens, " tokens"));
    }
    return id;
  }

  // An array of `size` elements (any number where size is negative); nullptr
  // where the key is absent.
  absl::StatusOr<const json*> Array(absl::string_view name,
                                    int64_t size) const {
    const json* value = Find(name);
    if (value == nullptr) return value;
    if (!value->is_array()) return WrongType(name, "an array");
    if (size >= 0 && static_cast<int64_t>(value->size()) != size) {
      return InvalidTokenizer(absl::StrCat(name, " has ", value->size(),
                                           " elements for ", size, " tokens"));
    }
    return value;
  }

  static absl::Status WrongType(absl::string_view name,
                                absl::string_view expected) {
    return InvalidTokenizer(absl::StrCat(name, " is not ", expected));
  }

 private:
  const json& metadata_;
};

absl::Status ReadKinds(const json& kinds, std::vector<Token>* tokens) {
  for (size_t i = 0; i < tokens->size(); ++i) {
    const json& kind = kinds[i];
    if (!kind.is_number_integer()) {
      return Keys::WrongType("token_type", "an array of integers");
    }
    const int64_t value = kind.get<int64_t>();
    if (value < 1 || value > 6) {
      return InvalidTokenizer(
          absl::StrCat("token ", i, " has the unknown type ", value));
    }
    (*tokens)[i].kind = static_cast<TokenKind>(value);
  }
  return absl::OkStatus();
}

absl::Status ReadScores(const json& scores, std::vector<Token>* tokens) {
  for (size_t i = 0; i < tokens->size(); ++i) {
    // JSON has no word for NaN and infinity: such a score arrives as null.
    if (!scores[i].is_number() || !std::isfinite(scores[i].get<float>())) {
      return InvalidTokenizer(
          absl::StrCat("the score of token ", i, " is not a finite number"));
    }
    (*tokens)[i].score = scores[i].get<float>();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Token>> ReadTokens(const Keys& keys) {
  ASSIGN_OR_RETURN(const json* texts, keys.Array("tokens", -1));
  if (texts == nullptr) return InvalidTokenizer("tokens is missing");
  std::vector<Token> tokens(texts->size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!(*texts)[i].is_string()) {
      return Keys::WrongType("tokens", "an array of strings");
    }
    tokens[i].id = static_cast<int64_t>(i);
    tokens[i].text = (*texts)[i].get<std::string>();
  }
  ASSIGN_OR_RETURN(const json* kinds, keys.Array("token_type", tokens.size()));
  if (kinds != nullptr) RETURN_IF_ERROR(ReadKinds(*kinds, &tokens));
  return tokens;
}

absl::StatusOr<SpecialTokens> ReadSpecial(const Keys& keys, size_t tokens,
                                          bool adds_bos) {
  SpecialTokens special;
  ASSIGN_OR_RETURN(special.bos, keys.Id("bos_token_id", tokens));
  ASSIGN_OR_RETURN(special.eos, keys.Id("eos_token_id", tokens));
  ASSIGN_OR_RETURN(special.unknown, keys.Id("unknown_token_id", tokens));
  ASSIGN_OR_RETURN(special.add_bos, keys.Bool("add_bos_token", adds_bos));
  ASSIGN_OR_RETURN(special.add_eos, keys.Bool("add_eos_token", false));
  special.add_bos = special.add_bos && special.bos >= 0;
  special.add_eos = special.add_eos && special.eos >= 0;
  return special;
}

absl::StatusOr<TokenizerForm> ReadPieces(const Keys& keys) {
  PieceVocabulary vocabulary;
  ASSIGN_OR_RETURN(vocabulary.tokens, ReadTokens(keys));
  ASSIGN_OR_RETURN(const json* scores,
                   keys.Array("scores", vocabulary.tokens.size()));
  if (scores == nullptr) return InvalidTokenizer("scores is missing");
  RETURN_IF_ERROR(ReadScores(*scores, &vocabulary.tokens));
  ASSIGN_OR_RETURN(vocabulary.special,
                   ReadSpecial(keys, vocabulary.tokens.size(), true));
  ASSIGN_OR_RETURN(vocabulary.add_dummy_prefix,
                   keys.Bool("add_space_prefix", true));
  return FormOf(vocabulary);
}

absl::StatusOr<TokenizerForm> ReadMerges(const Keys& keys) {
  MergeVocabulary vocabulary;
  ASSIGN_OR_RETURN(vocabulary.tokens, ReadTokens(keys));
  ASSIGN_OR_RETURN(const json* merges, keys.Array("merges", -1));
  if (merges == nullptr) return InvalidTokenizer("merges is missing");
  if (static_cast<int64_t>(merges->size()) > kMaxMerges) {
    return TokenizerError("TOKENIZER_TOO_LARGE", "there are too many merges");
  }
  for (size_t i = 0; i < merges->size(); ++i) {
    const json& merge = (*merges)[i];
    if (!merge.is_string()) {
      return Keys::WrongType("merges", "an array of strings");
    }
    const std::string& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ', 1);
    if (space == std::string::npos) {
      return InvalidTokenizer(absl::StrCat("merge ", i, " has no space"));
    }
    vocabulary.merges.emplace_back(text.substr(0, space),
                                   text.substr(space + 1));
  }
  ASSIGN_OR_RETURN(vocabulary.pre_tokenizer, keys.String("pre", "gpt-2"));
  ASSIGN_OR_RETURN(const PreTokenizer pre,
                   FindPreTokenizer(vocabulary.pre_tokenizer));
  ASSIGN_OR_RETURN(vocabulary.special,
                   ReadSpecial(keys, vocabulary.tokens.size(), pre.adds_bos));
  return FormOf(vocabulary);
}

}  // namespace

bool HasGgufVocabulary(const json& metadata) {
  return metadata.is_object() && metadata.contains("tokenizer.ggml.model");
}

absl::StatusOr<TokenizerForm> ReadGgufVocabulary(const json& metadata) {
  const Keys keys(metadata);
  ASSIGN_OR_RETURN(const std::string model, keys.String("model", ""));
  if (model == "llama") return ReadPieces(keys);
  if (model == "gpt2") return ReadMerges(keys);
  return TokenizerError("TOKENIZER_UNSUPPORTED",
                        absl::StrCat("GGUF vocabulary \"", model,
                                     "\" is not known; known are llama, gpt2"));
}

}  // namespace quantd::tokenizers
