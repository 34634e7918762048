// SPDX-License-Identifier: Apache-2.0
// Ids against those of the models' own tokenizers: the published vectors of
// llama.cpp (47 texts a vocabulary) and the whole WikiText-2 test set, whose
// ids are known by their count and SHA-256.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "proto/base/atomic_file.h"
#include "proto/base/digest.h"
#include "tests/support/test_data.h"
#include "tests/worker/tokenizers/gguf_metadata.h"
#include "worker/tokenizers/tokenizer.h"

namespace quantd::tokenizers {
namespace {

using nlohmann::json;
using Ids = std::vector<int64_t>;

std::string TokenizerData(const std::string& name) {
  return support::TestData("data/tokenizers/" + name);
}

std::string Text(const std::string& path) {
  return base::ReadFile(path).value();
}

// The rows of the data set, joined by the rule of the GPTQ reference.
std::string JoinedWikiText() {
  std::vector<std::string> rows;
  const std::string raw =
      Text(support::TestData("data/wikitext2/wiki.test.raw"));
  for (absl::string_view line : absl::StrSplit(raw, '\n')) {
    rows.push_back(line == " " ? "" : absl::StrCat(line, "\n"));
  }
  rows.pop_back();  // After the last newline there is no row.
  return absl::StrJoin(rows, "\n\n");
}

std::string DigestOfIds(const Ids& ids) {
  std::string bytes;
  for (const int64_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      bytes.push_back(static_cast<char>((id >> shift) & 0xff));
    }
  }
  return base::Sha256Hex(bytes);
}

std::unique_ptr<Tokenizer> FromGguf(const std::string& name) {
  auto made = LoadTokenizer(
      {}, GgufMetadata::Read(TokenizerData("llamacpp_vocab/" + name)));
  EXPECT_TRUE(made.ok()) << made.status();
  return std::move(made).value();
}

std::unique_ptr<Tokenizer> FromFiles(
    const std::map<std::string, std::string>& files) {
  auto made = LoadTokenizer(files, json::object());
  EXPECT_TRUE(made.ok()) << made.status();
  return std::move(made).value();
}

std::unique_ptr<Tokenizer> FromMetadata(const json& metadata) {
  auto made = LoadTokenizer({}, metadata);
  EXPECT_TRUE(made.ok()) << made.status();
  return std::move(made).value();
}

std::string Utf8(int code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | (code_point >> 6)),
          static_cast<char>(0x80 | (code_point & 0x3F))};
}

// Bytes as byte-level vocabularies spell them: one that is printable in Latin-1
// as itself, the n-th of the others as U+0100 + n (openai/gpt-2, encoder.py).
std::string Spelled(absl::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    int others = 0;
    bool printable = false;
    for (int b = 0; b <= byte; ++b) {
      printable =
          (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      others += !printable;
    }
    text += Utf8(printable ? byte : 0x100 + others - 1);
  }
  return text;
}

// The two tokens that the token of rank `rank` was merged from: what merging by
// rank makes of its bytes before that rank.
std::pair<std::string, std::string> MergedFrom(
    const std::string& token, const std::unordered_map<std::string, int>& ranks,
    int rank) {
  std::vector<std::string> parts;
  for (const char c : token) parts.emplace_back(1, c);
  while (parts.size() > 2) {
    size_t best = 0;
    int best_rank = rank;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = ranks.find(parts[i] + parts[i + 1]);
      if (found != ranks.end() && found->second < best_rank) {
        best = i;
        best_rank = found->second;
      }
    }
    if (best_rank == rank) break;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  EXPECT_EQ(parts.size(), 2u) << rank;
  return {parts.front(), parts.back()};
}

// A file of base64 tokens and ranks as the metadata of a GGUF file.
json TiktokenMetadata(const std::string& path, const std::string& pre) {
  std::unordered_map<std::string, int> ranks;
  std::vector<std::string> tokens;
  for (absl::string_view line :
       absl::StrSplit(Text(path), '\n', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> fields =
        absl::StrSplit(line, ' ');
    std::string token;
    EXPECT_TRUE(absl::Base64Unescape(fields.first, &token));
    ranks[token] = static_cast<int>(tokens.size());
    EXPECT_EQ(fields.second, absl::StrCat(tokens.size()));
    tokens.push_back(token);
  }
  json texts = json::array();
  json merges = json::array();
  for (size_t rank = 0; rank < tokens.size(); ++rank) {
    texts.push_back(Spelled(tokens[rank]));
    if (tokens[rank].size() == 1) continue;
    const auto [left, right] =
        MergedFrom(tokens[rank], ranks, static_cast<int>(rank));
    merges.push_back(absl::StrCat(Spelled(left), " ", Spelled(right)));
  }
  return {{"tokenizer.ggml.model", "gpt2"},
          {"tokenizer.ggml.pre", pre},
          {"tokenizer.ggml.tokens", texts},
          {"tokenizer.ggml.merges", merges}};
}

// A vocabulary in the form of llama2.c: a number, then score, length and text
// of each piece, with a space for the mark of a word's beginning.
json PieceMetadata(const std::string& path) {
  const std::string bytes = Text(path);
  json texts = json::array();
  json scores = json::array();
  json kinds = json::array();
  for (size_t at = 4; at + 8 <= bytes.size();) {
    float score;
    int32_t length;
    memcpy(&score, bytes.data() + at, sizeof(score));
    memcpy(&length, bytes.data() + at + 4, sizeof(length));
    const auto size = static_cast<size_t>(length);
    const std::string text = bytes.substr(at + 8, size);
    at += 8 + size;
    // 0 is unknown, 1 and 2 are BOS and EOS, then come the 256 bytes.
    const size_t id = texts.size();
    const int kind = id == 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1;
    texts.push_back(kind == 1 ? absl::StrReplaceAll(text, {{" ", "\u2581"}})
                              : text);
    scores.push_back(score);
    kinds.push_back(kind);
  }
  return {{"tokenizer.ggml.model", "llama"},
          {"tokenizer.ggml.tokens", texts},
          {"tokenizer.ggml.scores", scores},
          {"tokenizer.ggml.token_type", kinds},
          {"tokenizer.ggml.bos_token_id", 1},
          {"tokenizer.ggml.eos_token_id", 2},
          {"tokenizer.ggml.unknown_token_id", 0}};
}

// Every text of <name>.inp gives the ids of the same line of <name>.out.
void ExpectVectors(const Tokenizer& tokenizer, const std::string& name) {
  const std::string stem = TokenizerData("llamacpp_vocab/" + name);
  const std::vector<std::string> texts =
      absl::StrSplit(Text(stem + ".inp"), "\n__ggml_vocab_test__\n");
  const std::vector<std::string> lines =
      absl::StrSplit(Text(stem + ".out"), '\n');
  ASSERT_GE(lines.size(), texts.size());
  ASSERT_GT(texts.size(), 40u);
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto ids = tokenizer.Encode(texts[i], /*add_special_tokens=*/false);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(absl::StrJoin(*ids, " "), absl::StripAsciiWhitespace(lines[i]))
        << "case " << i << ": " << texts[i];
  }
}

void ExpectGolden(const Tokenizer& tokenizer, const std::string& name) {
  const json golden =
      json::parse(Text(TokenizerData("wikitext2_token_golden.json"))).at(name);
  const std::string joined = JoinedWikiText();
  ASSERT_EQ(joined.size(), 1296370u);
  const auto ids = tokenizer.Encode(joined, /*add_special_tokens=*/true);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(static_cast<int64_t>(ids->size()),
            golden.at("joined_n").get<int64_t>());
  EXPECT_EQ(DigestOfIds(*ids), golden.at("joined_sha256_le_i32"));
  const auto raw = tokenizer.Encode(
      Text(support::TestData("data/wikitext2/wiki.test.raw")), true);
  ASSERT_TRUE(raw.ok()) << raw.status();
  EXPECT_EQ(DigestOfIds(*raw), golden.at("raw_sha256_le_i32"));
}

TEST(GoldenIds, Gpt2VocabularyOfAGgufFile) {
  SKIP_WITHOUT_TEST_DATA();
  const auto tokenizer = FromGguf("ggml-vocab-gpt-2.gguf");
  ExpectVectors(*tokenizer, "ggml-vocab-gpt-2.gguf");
  ExpectGolden(*tokenizer, "gpt2");
  EXPECT_EQ(tokenizer->eos_id(), 50256);
  EXPECT_EQ(tokenizer->vocabulary_size(), 50257);
}

TEST(GoldenIds, FalconVocabularyOfAGgufFile) {
  SKIP_WITHOUT_TEST_DATA();
  ExpectVectors(*FromGguf("ggml-vocab-falcon.gguf"), "ggml-vocab-falcon.gguf");
}

TEST(GoldenIds, NeoxVocabularyOfAGgufFileIsThatOfItsTokenizerJson) {
  SKIP_WITHOUT_TEST_DATA();
  ExpectGolden(*FromGguf("ggml-vocab-gpt-neox.gguf"), "pythia_gptneox");
}

TEST(GoldenIds, NeoxTokenizerJson) {
  SKIP_WITHOUT_TEST_DATA();
  const auto tokenizer =
      FromFiles({{"tokenizer.json",
                  TokenizerData("gpt_neox_20B_pythia_tokenizer.json")}});
  ExpectGolden(*tokenizer, "pythia_gptneox");
  EXPECT_EQ(tokenizer->bos_id(), -1);
}

TEST(GoldenIds, Gpt2VocabularyAndMerges) {
  SKIP_WITHOUT_TEST_DATA();
  const auto tokenizer =
      FromFiles({{"vocab.json", TokenizerData("gpt2_vocab.json")},
                 {"merges.txt", TokenizerData("gpt2_merges.txt")}});
  ExpectVectors(*tokenizer, "ggml-vocab-gpt-2.gguf");
  ExpectGolden(*tokenizer, "gpt2");
}

TEST(GoldenIds, OptVocabularyAndMergesWithItsConfig) {
  SKIP_WITHOUT_TEST_DATA();
  const support::TemporaryDirectory folder;
  const std::string config = folder.File("config");
  ASSERT_TRUE(base::WriteFileAtomically(
                  config,
                  R"({"add_bos_token": true, "tokenizer_class": "GPT2Tokenizer",
                      "bos_token": {"content": "</s>"},
                      "eos_token": {"content": "</s>"},
                      "unk_token": {"content": "</s>"}})")
                  .ok());
  const auto tokenizer =
      FromFiles({{"vocab.json", TokenizerData("opt_vocab.json")},
                 {"merges.txt", TokenizerData("opt_merges.txt")},
                 {"tokenizer_config.json", config}});
  ExpectGolden(*tokenizer, "opt");
  EXPECT_EQ(tokenizer->bos_id(), 2);
}

TEST(GoldenIds, MistralSentencePieceModel) {
  SKIP_WITHOUT_TEST_DATA();
  const auto tokenizer = FromFiles(
      {{"tokenizer.model", TokenizerData("mistral_v1_tokenizer.model")}});
  ExpectGolden(*tokenizer, "mistral_v1");
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_EQ(tokenizer->vocabulary_size(), 32000);
}

TEST(GoldenIds, QwenRanksWithThePreTokenizerOfQwen2) {
  SKIP_WITHOUT_TEST_DATA();
  const auto tokenizer =
      FromMetadata(TiktokenMetadata(TokenizerData("qwen.tiktoken"), "qwen2"));
  ExpectVectors(*tokenizer, "ggml-vocab-qwen2.gguf");
  ExpectGolden(*tokenizer, "qwen2");
  EXPECT_EQ(tokenizer->bos_id(), -1);
}

TEST(GoldenIds, PiecesOfASmallLlama) {
  SKIP_WITHOUT_TEST_DATA();
  const std::string folder = support::TestData("data/models/stories260K/");
  const auto tokenizer = FromMetadata(PieceMetadata(folder + "tok512.bin"));
  EXPECT_EQ(tokenizer->vocabulary_size(), 512);
  const json golden = json::parse(Text(folder + "golden.json"));
  for (const char* name : {"short", "story1"}) {
    const std::string text = golden[name]["text"];
    const auto ids = tokenizer->Encode(text, /*add_special_tokens=*/true);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, golden[name]["ids"].get<Ids>()) << name;
    EXPECT_EQ(tokenizer->Decode(*ids).value(), text);
  }
}

// How the vocabulary of Llama 3 cuts texts, by hand from its published pattern
// (meta-llama/llama3, llama/tokenizer.py): no golden ids can be had without the
// vocabulary itself. Every piece of a text is a token here and there are no
// merges, so that ids are pieces.
class LlamaBpeTest : public testing::TestWithParam<std::vector<std::string>> {};

TEST_P(LlamaBpeTest, PiecesAreThoseOfThePublishedPattern) {
  const std::string text = absl::StrJoin(GetParam(), "");
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(std::string(1, static_cast<char>(byte)));
  }
  // Every part of the text, so that a wrong cut would show.
  std::set<std::string> parts;
  for (size_t begin = 0; begin < text.size(); ++begin) {
    for (size_t size = 2; begin + size <= text.size(); ++size) {
      parts.insert(text.substr(begin, size));
    }
  }
  tokens.insert(tokens.end(), parts.begin(), parts.end());
  tokens.push_back("<bos>");
  json texts = json::array();
  json kinds = json::array();
  for (const std::string& token : tokens) {
    texts.push_back(token == "<bos>" ? token : Spelled(token));
    kinds.push_back(token == "<bos>" ? 3 : 1);
  }
  const auto tokenizer =
      FromMetadata({{"tokenizer.ggml.model", "gpt2"},
                    {"tokenizer.ggml.pre", "llama-bpe"},
                    {"tokenizer.ggml.tokens", texts},
                    {"tokenizer.ggml.token_type", kinds},
                    {"tokenizer.ggml.merges", json::array()},
                    {"tokenizer.ggml.bos_token_id", tokens.size() - 1}});
  const auto ids = tokenizer->Encode(text, /*add_special_tokens=*/true);
  ASSERT_TRUE(ids.ok()) << ids.status();
  ASSERT_FALSE(ids->empty());
  EXPECT_EQ(ids->front(), static_cast<int64_t>(tokens.size()) - 1);
  std::vector<std::string> pieces;
  for (size_t i = 1; i < ids->size(); ++i) {
    pieces.push_back(tokens[static_cast<size_t>((*ids)[i])]);
  }
  EXPECT_EQ(pieces, GetParam());
}

INSTANTIATE_TEST_SUITE_P(
    Pattern, LlamaBpeTest,
    testing::Values(
        std::vector<std::string>{"Hello", " world"},
        // Contractions in either case.
        std::vector<std::string>{"I", "'ll", " don", "'T", " we", "'Re"},
        // Digits by threes, without the space before them.
        std::vector<std::string>{"123", "456", "7", " ", "89"},
        // The last of several spaces goes with the word.
        std::vector<std::string>{"a", " ", " b", "  ", " c"},
        std::vector<std::string>{"x", "\n\n", "y", " \n\n", " z"},
        // Symbols take the line breaks after them.
        std::vector<std::string>{"end", ".", " \n", "!!\n\n", "A"},
        // One sign that is no letter, digit or break goes with letters.
        std::vector<std::string>{"$price", "\tword", "_id", " ==", "x"},
        std::vector<std::string>{"na\u00efve", " caf\u00e9", "   "},
        std::vector<std::string>{"\u65e5\u672c\u8a9e", "123", "\u6587"}));

TEST(GoldenIds, DecodingGivesTheTextBack) {
  SKIP_WITHOUT_TEST_DATA();
  const std::string text =
      "Überall  two spaces,\ttabs \xf0\x9f\xa6\x99 and 1234.";
  for (const auto& tokenizer :
       {FromGguf("ggml-vocab-gpt-2.gguf"),
        FromFiles({{"tokenizer.model",
                    TokenizerData("mistral_v1_tokenizer.model")}})}) {
    const auto ids = tokenizer->Encode(text, /*add_special_tokens=*/true);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(tokenizer->Decode(*ids).value(), text);
  }
}

}  // namespace
}  // namespace quantd::tokenizers
