// SPDX-License-Identifier: Apache-2.0
#include "worker/tokenizers/vocabulary.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/tokenizers/pre_tokenizers.h"

namespace quantd::tokenizers {
namespace {

using nlohmann::json;
using TextIds = std::unordered_map<std::string, int64_t>;

// U+2581, which stands for a space in SentencePiece vocabularies.
constexpr char kSpaceMark[] = "\xe2\x96\x81";

// A merge of a SentencePiece vocabulary, found by splitting `piece`.
struct Split {
  const Token* piece;
  size_t cut;
  int64_t left_id;
  int64_t right_id;
  int64_t left_length;
  int64_t right_length;
};

absl::StatusOr<TextIds> IdsByText(const std::vector<Token>& tokens) {
  if (tokens.empty()) return InvalidTokenizer("the vocabulary is empty");
  if (static_cast<int64_t>(tokens.size()) > kMaxTokens) {
    return TokenizerError(
        "TOKENIZER_TOO_LARGE",
        absl::StrCat("the vocabulary has ", tokens.size(), " tokens; at most ",
                     kMaxTokens, " are read"));
  }
  TextIds ids;
  ids.reserve(tokens.size());
  for (const Token& token : tokens) {
    if (token.id < 0 || token.id >= kMaxTokens) {
      return InvalidTokenizer(
          absl::StrCat("token id ", token.id, " is out of range"));
    }
    const auto [other, fresh] = ids.emplace(token.text, token.id);
    if (!fresh) {
      return TokenizerError("TOKENIZER_DUPLICATE_TOKEN",
                            absl::StrCat("ids ", other->second, " and ",
                                         token.id, " have the same text \"",
                                         absl::CEscape(token.text), "\""));
    }
  }
  return ids;
}

const Token* FindById(const std::vector<Token>& tokens, int64_t id) {
  for (const Token& token : tokens) {
    if (token.id == id) return &token;
  }
  return nullptr;
}

json AddedTokens(const std::vector<Token>& tokens) {
  json added = json::array();
  for (const Token& token : tokens) {
    const bool special =
        token.kind == TokenKind::kControl || token.kind == TokenKind::kUnknown;
    if (!special && token.kind != TokenKind::kUserDefined) continue;
    if (token.text.empty()) continue;
    added.push_back({{"id", token.id},
                     {"content", token.text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", special}});
  }
  return added;
}

absl::StatusOr<json> PostProcessor(const std::vector<Token>& tokens,
                                   const SpecialTokens& special) {
  if (!special.add_bos && !special.add_eos) return json(nullptr);
  const Token* bos = FindById(tokens, special.bos);
  const Token* eos = FindById(tokens, special.eos);
  if ((special.add_bos && bos == nullptr) ||
      (special.add_eos && eos == nullptr)) {
    return InvalidTokenizer(
        "a special token is put around texts but is not in the vocabulary");
  }
  SpecialTexts texts;
  if (bos != nullptr) texts.bos = bos->text;
  if (eos != nullptr) texts.eos = eos->text;
  return json::parse(TemplateJson(special, texts));
}

int64_t Utf8Length(absl::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (c & 0xc0) != 0x80; });
}

void AddSplits(const Token& token, const TextIds& ids,
               std::vector<Split>* splits) {
  std::vector<Split> found;
  const int64_t length = Utf8Length(token.text);
  int64_t left_length = 0;
  for (size_t cut = 1; cut < token.text.size(); ++cut) {
    if ((token.text[cut] & 0xc0) == 0x80) continue;
    ++left_length;
    const auto left = ids.find(token.text.substr(0, cut));
    if (left == ids.end()) continue;
    const auto right = ids.find(token.text.substr(cut));
    if (right == ids.end()) continue;
    found.push_back({&token, cut, left->second, right->second, left_length,
                     length - left_length});
  }
  std::sort(found.begin(), found.end(), [](const Split& a, const Split& b) {
    return std::pair(a.left_id, a.right_id) < std::pair(b.left_id, b.right_id);
  });
  splits->insert(splits->end(), found.begin(), found.end());
}

// The rule by which the Hugging Face converter turns scores into ranks: best
// score first, then the longer left part, then the longer right part; ties in
// the order of ids.
absl::StatusOr<json> MergesFromScores(const PieceVocabulary& vocabulary,
                                      const TextIds& ids) {
  std::vector<Split> splits;
  for (const Token& token : vocabulary.tokens) {
    if (token.kind == TokenKind::kByte) continue;
    if (static_cast<int64_t>(token.text.size()) > kMaxPieceBytes) {
      return TokenizerError(
          "TOKENIZER_TOO_LARGE",
          absl::StrCat("piece ", token.id, " has ", token.text.size(),
                       " bytes; at most ", kMaxPieceBytes, " are taken"));
    }
    AddSplits(token, ids, &splits);
    if (static_cast<int64_t>(splits.size()) > kMaxMerges) {
      return TokenizerError("TOKENIZER_TOO_LARGE",
                            "the pieces give too many merges");
    }
  }
  std::stable_sort(
      splits.begin(), splits.end(), [](const Split& a, const Split& b) {
        return std::tuple(a.piece->score, a.left_length, a.right_length) >
               std::tuple(b.piece->score, b.left_length, b.right_length);
      });
  json merges = json::array();
  for (const Split& split : splits) {
    merges.push_back({split.piece->text.substr(0, split.cut),
                      split.piece->text.substr(split.cut)});
  }
  return merges;
}

json PieceNormalizer(const PieceVocabulary& vocabulary) {
  json steps = json::array();
  if (!vocabulary.charsmap.empty()) {
    steps.push_back(
        {{"type", "Precompiled"},
         {"precompiled_charsmap", absl::Base64Escape(vocabulary.charsmap)}});
  }
  if (vocabulary.remove_extra_whitespaces) {
    steps.push_back(
        {{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}});
    steps.push_back({{"type", "Replace"},
                     {"pattern", {{"Regex", " {2,}"}}},
                     {"content", " "}});
  }
  if (vocabulary.add_dummy_prefix) {
    steps.push_back({{"type", "Prepend"}, {"prepend", kSpaceMark}});
  }
  steps.push_back({{"type", "Replace"},
                   {"pattern", {{"String", " "}}},
                   {"content", kSpaceMark}});
  return {{"type", "Sequence"}, {"normalizers", steps}};
}

json PieceDecoder(bool strip_first_space) {
  json steps = json::array({{{"type", "Replace"},
                             {"pattern", {{"String", kSpaceMark}}},
                             {"content", " "}},
                            {{"type", "ByteFallback"}},
                            {{"type", "Fuse"}}});
  if (strip_first_space) {
    steps.push_back(
        {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return {{"type", "Sequence"}, {"decoders", steps}};
}

json VocabularyObject(const std::vector<Token>& tokens) {
  json object = json::object();
  for (const Token& token : tokens) object[token.text] = token.id;
  return object;
}

bool HasBytes(const std::vector<Token>& tokens) {
  return std::any_of(tokens.begin(), tokens.end(), [](const Token& token) {
    return token.kind == TokenKind::kByte;
  });
}

// A unigram vocabulary is a list, so ids must be positions in it.
absl::StatusOr<json> UnigramModel(const PieceVocabulary& vocabulary) {
  json pieces = json::array();
  for (const Token& token : vocabulary.tokens) {
    if (token.id != static_cast<int64_t>(pieces.size())) {
      return InvalidTokenizer("unigram pieces are not in the order of ids");
    }
    pieces.push_back({token.text, token.score});
  }
  if (vocabulary.special.unknown < 0) {
    return InvalidTokenizer("a unigram vocabulary needs an unknown token");
  }
  return json{{"type", "Unigram"},
              {"unk_id", vocabulary.special.unknown},
              {"vocab", std::move(pieces)},
              {"byte_fallback", HasBytes(vocabulary.tokens)}};
}

absl::StatusOr<json> ScoredBpeModel(const PieceVocabulary& vocabulary,
                                    const TextIds& ids) {
  ASSIGN_OR_RETURN(json merges, MergesFromScores(vocabulary, ids));
  const Token* unknown =
      FindById(vocabulary.tokens, vocabulary.special.unknown);
  return json{
      {"type", "BPE"},
      {"dropout", nullptr},
      {"unk_token", unknown == nullptr ? json(nullptr) : json(unknown->text)},
      {"fuse_unk", true},
      {"byte_fallback", HasBytes(vocabulary.tokens)},
      {"ignore_merges", false},
      {"vocab", VocabularyObject(vocabulary.tokens)},
      {"merges", std::move(merges)}};
}

json Document(json added, json normalizer, json pre_tokenizer) {
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", std::move(added)},
          {"normalizer", std::move(normalizer)},
          {"pre_tokenizer", std::move(pre_tokenizer)}};
}

TokenizerForm Finish(const json& document, const SpecialTokens& special) {
  return {document.dump(), special.bos, special.eos};
}

absl::StatusOr<TokenizerForm> PieceForm(const PieceVocabulary& vocabulary) {
  ASSIGN_OR_RETURN(const TextIds ids, IdsByText(vocabulary.tokens));
  json document = Document(AddedTokens(vocabulary.tokens),
                           PieceNormalizer(vocabulary), nullptr);
  ASSIGN_OR_RETURN(document["post_processor"],
                   PostProcessor(vocabulary.tokens, vocabulary.special));
  document["decoder"] = PieceDecoder(vocabulary.add_dummy_prefix);
  if (vocabulary.unigram) {
    ASSIGN_OR_RETURN(document["model"], UnigramModel(vocabulary));
  } else {
    ASSIGN_OR_RETURN(document["model"], ScoredBpeModel(vocabulary, ids));
  }
  return Finish(document, vocabulary.special);
}

absl::StatusOr<TokenizerForm> MergeForm(const MergeVocabulary& vocabulary) {
  RETURN_IF_ERROR(IdsByText(vocabulary.tokens).status());
  ASSIGN_OR_RETURN(const PreTokenizer pre,
                   FindPreTokenizer(vocabulary.pre_tokenizer));
  json document = Document(AddedTokens(vocabulary.tokens),
                           pre.nfc ? json{{"type", "NFC"}} : json(nullptr),
                           PreTokenizerJson(pre));
  ASSIGN_OR_RETURN(document["post_processor"],
                   PostProcessor(vocabulary.tokens, vocabulary.special));
  document["decoder"] = {{"type", "ByteLevel"},
                         {"add_prefix_space", false},
                         {"trim_offsets", true},
                         {"use_regex", true}};
  json merges = json::array();
  for (const auto& [left, right] : vocabulary.merges) {
    merges.push_back({left, right});
  }
  document["model"] = {{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"fuse_unk", false},
                       {"byte_fallback", false},
                       {"ignore_merges", pre.ignore_merges},
                       {"vocab", VocabularyObject(vocabulary.tokens)},
                       {"merges", std::move(merges)}};
  return Finish(document, vocabulary.special);
}

// json::dump refuses texts that are not UTF-8 by an exception.
template <typename Vocabulary, typename Make>
absl::StatusOr<TokenizerForm> Guarded(const Vocabulary& vocabulary, Make make) {
  try {
    return make(vocabulary);
  } catch (const json::exception&) {
    return InvalidTokenizer("a token's text is not UTF-8");
  }
}

}  // namespace

absl::StatusOr<TokenizerForm> FormOf(const PieceVocabulary& vocabulary) {
  return Guarded(vocabulary, PieceForm);
}

absl::StatusOr<TokenizerForm> FormOf(const MergeVocabulary& vocabulary) {
  return Guarded(vocabulary, MergeForm);
}

std::string TemplateJson(const SpecialTokens& special,
                         const SpecialTexts& texts) {
  json single = json::array();
  json pair = json::array();
  json tokens = json::object();
  const auto add = [](json* list, const char* kind, const std::string& id,
                      int type) {
    list->push_back({{kind, {{"id", id}, {"type_id", type}}}});
  };
  const auto declare = [&](const std::string& text, int64_t id) {
    tokens[text] = {{"id", text},
                    {"ids", json::array({id})},
                    {"tokens", json::array({text})}};
  };
  if (special.add_bos) {
    add(&single, "SpecialToken", texts.bos, 0);
    declare(texts.bos, special.bos);
  }
  add(&single, "Sequence", "A", 0);
  if (special.add_eos) {
    add(&single, "SpecialToken", texts.eos, 0);
    declare(texts.eos, special.eos);
  }
  pair = single;
  if (special.add_bos) add(&pair, "SpecialToken", texts.bos, 1);
  add(&pair, "Sequence", "B", 1);
  if (special.add_eos) add(&pair, "SpecialToken", texts.eos, 1);
  return json{{"type", "TemplateProcessing"},
              {"single", std::move(single)},
              {"pair", std::move(pair)},
              {"special_tokens", std::move(tokens)}}
      .dump();
}

absl::Status TokenizerError(absl::string_view reason, absl::string_view what) {
  return base::MakeError(absl::StatusCode::kInvalidArgument, reason,
                         absl::StrCat("the tokenizer cannot be used: ", what));
}

absl::Status InvalidTokenizer(absl::string_view what) {
  return TokenizerError("TOKENIZER_INVALID", what);
}

}  // namespace quantd::tokenizers
