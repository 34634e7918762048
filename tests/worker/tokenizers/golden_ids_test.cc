// SPDX-License-Identifier: Apache-2.0
// Ids against those of the models' own tokenizers: the published vectors of
// llama.cpp (47 texts a vocabulary) and the whole WikiText-2 test set, whose
// ids are known by their count and SHA-256.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

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
