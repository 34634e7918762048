// SPDX-License-Identifier: Apache-2.0
// Tokenizer files from strangers: each refusal has its reason, and nothing
// crashes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "tests/support/test_data.h"
#include "worker/tokenizers/sentencepiece_model.h"
#include "worker/tokenizers/tokenizer.h"

namespace quantd::tokenizers {
namespace {

using nlohmann::json;
using testing::ElementsAre;

absl::StatusOr<std::unique_ptr<Tokenizer>> Load(
    const std::map<std::string, std::string>& contents) {
  const support::TemporaryDirectory folder;
  std::map<std::string, std::string> files;
  for (const auto& [name, bytes] : contents) {
    files[name] = folder.File(name);
    EXPECT_TRUE(base::WriteFileAtomically(files[name], bytes).ok());
  }
  return LoadTokenizer(files, json::object());
}

std::string ReasonOf(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return base::ErrorReason(status);
}

// Wire format of protobuf, by hand.
std::string Varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) {
    bytes.push_back(static_cast<char>(value | 0x80));
  }
  bytes.push_back(static_cast<char>(value));
  return bytes;
}

std::string Number(int field, uint64_t value) {
  return Varint(field << 3) + Varint(value);
}

std::string Bytes(int field, const std::string& value) {
  return Varint(field << 3 | 2) + Varint(value.size()) + value;
}

std::string Piece(const std::string& text, float score, int type = 1) {
  std::string bits(4, '\0');
  memcpy(bits.data(), &score, 4);
  return Bytes(1, Bytes(1, text) + Varint(2 << 3 | 5) + bits + Number(3, type));
}

// <unk> <s> </s> a b ab, BPE, without a space put before the text.
std::string SmallModel() {
  return Piece("<unk>", 0, 2) + Piece("<s>", 0, 3) + Piece("</s>", 0, 3) +
         Piece("a", -2) + Piece("b", -3) + Piece("ab", -1) +
         Bytes(2, Number(3, 2)) + Bytes(3, Number(3, 0) + Number(4, 0));
}

json SmallGguf() {
  return {{"tokenizer.ggml.model", "gpt2"},
          {"tokenizer.ggml.pre", "gpt-2"},
          {"tokenizer.ggml.tokens", {"a", "b", "ab", "<eos>"}},
          {"tokenizer.ggml.token_type", {1, 1, 1, 3}},
          {"tokenizer.ggml.merges", {"a b"}},
          {"tokenizer.ggml.bos_token_id", 3},
          {"tokenizer.ggml.eos_token_id", 3}};
}

std::string GgufRefusal(const std::string& key, const json& value) {
  json metadata = SmallGguf();
  metadata["tokenizer.ggml." + key] = value;
  return ReasonOf(LoadTokenizer({}, metadata).status());
}

TEST(SentencePiece, AModelMadeByHandGivesItsIds) {
  const auto tokenizer = Load({{"tokenizer.model", SmallModel()}});
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->Encode("aab", true), ElementsAre(1, 3, 5));
  EXPECT_THAT(*(*tokenizer)->Encode("bz", false), ElementsAre(4, 0));
  EXPECT_EQ((*tokenizer)->bos_id(), 1);
  EXPECT_EQ((*tokenizer)->eos_id(), 2);
}

TEST(SentencePiece, TheConfigDecidesAboutBos) {
  const auto tokenizer =
      Load({{"tokenizer.model", SmallModel()},
            {"tokenizer_config.json",
             R"({"add_bos_token": false, "add_eos_token": true})"}});
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->Encode("ab", true), ElementsAre(5, 2));
}

TEST(SentencePiece, EveryPrefixOfAModelIsReadOrRefused) {
  const std::string whole = SmallModel();
  for (size_t size = 0; size < whole.size(); ++size) {
    const auto model = ReadSentencePieceModel(whole.substr(0, size));
    if (model.ok()) continue;
    EXPECT_EQ(ReasonOf(model.status()), "TOKENIZER_INVALID");
  }
}

TEST(SentencePiece, MalformedModelsAreRefused) {
  const auto reason = [](const std::string& bytes) {
    return ReasonOf(Load({{"tokenizer.model", bytes}}).status());
  };
  EXPECT_EQ(reason(""), "TOKENIZER_INVALID");
  EXPECT_EQ(reason("not a protobuf"), "TOKENIZER_INVALID");
  // A length of 2^63 and one that ends in the middle of nothing.
  EXPECT_EQ(reason("\x0a" + Varint(uint64_t{1} << 63)), "TOKENIZER_INVALID");
  EXPECT_EQ(reason("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            "TOKENIZER_INVALID");
  EXPECT_EQ(reason(SmallModel() + Piece("", 0)), "TOKENIZER_INVALID");
  EXPECT_EQ(reason(SmallModel() + Piece("c", 0, 9)), "TOKENIZER_INVALID");
  EXPECT_EQ(reason(SmallModel() +
                   Piece("c", std::numeric_limits<float>::quiet_NaN())),
            "TOKENIZER_INVALID");
  EXPECT_EQ(reason(SmallModel() + Piece("c\xff", 0)), "TOKENIZER_INVALID");
  EXPECT_EQ(reason(SmallModel() + Piece("ab", -5)),
            "TOKENIZER_DUPLICATE_TOKEN");
  EXPECT_EQ(reason(SmallModel() + Piece(std::string(100000, 'c'), 0)),
            "TOKENIZER_TOO_LARGE");
  EXPECT_EQ(reason(SmallModel() + Bytes(2, Number(3, 4))),
            "TOKENIZER_UNSUPPORTED");
}

TEST(GgufVocabulary, MadeByHandGivesItsIds) {
  const auto tokenizer = LoadTokenizer({}, SmallGguf());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->Encode("abb<eos>", true), ElementsAre(2, 1, 3));
  json with_bos = SmallGguf();
  with_bos["tokenizer.ggml.add_bos_token"] = true;
  const auto other = LoadTokenizer({}, with_bos);
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_THAT(*(*other)->Encode("ab", true), ElementsAre(3, 2));
}

TEST(GgufVocabulary, MalformedKeysAreRefused) {
  EXPECT_EQ(GgufRefusal("model", "bert"), "TOKENIZER_UNSUPPORTED");
  EXPECT_EQ(GgufRefusal("model", 7), "TOKENIZER_INVALID");
  EXPECT_EQ(GgufRefusal("pre", "no-such"), "TOKENIZER_UNSUPPORTED");
  EXPECT_EQ(GgufRefusal("tokens", "a"), "TOKENIZER_INVALID");
  EXPECT_EQ(GgufRefusal("tokens", {1, 2}), "TOKENIZER_INVALID");
  EXPECT_EQ(GgufRefusal("tokens", json::array()), "TOKENIZER_INVALID");
  EXPECT_EQ(GgufRefusal("tokens", {"a", "b", "ab", "a"}),
            "TOKENIZER_DUPLICATE_TOKEN");
  EXPECT_EQ(GgufRefusal("tokens", {"a", "b", "ab", "\xff"}),
            "TOKENIZER_INVALID");
  EXPECT_EQ(GgufRefusal("token_type", {1, 1, 1}), "TOKENIZER_INVALID");
  EXPECT_EQ(GgufRefusal("token_type", {1, 1, 1, 7}), "TOKENIZER_INVALID");
  EXPECT_EQ(GgufRefusal("bos_token_id", 4), "TOKENIZER_INVALID");
  EXPECT_EQ(GgufRefusal("bos_token_id", "<s>"), "TOKENIZER_INVALID");
  EXPECT_EQ(GgufRefusal("add_bos_token", 1), "TOKENIZER_INVALID");
  EXPECT_EQ(GgufRefusal("merges", {"ab"}), "TOKENIZER_INVALID");
  // Of a token that the vocabulary does not have.
  EXPECT_EQ(GgufRefusal("merges", {"a c"}), "TOKENIZER_INVALID");
}

TEST(GgufVocabulary, SentencePieceKindNeedsFiniteScores) {
  json metadata = {{"tokenizer.ggml.model", "llama"},
                   {"tokenizer.ggml.tokens", {"<unk>", "a"}},
                   {"tokenizer.ggml.token_type", {2, 1}},
                   {"tokenizer.ggml.unknown_token_id", 0}};
  EXPECT_EQ(ReasonOf(LoadTokenizer({}, metadata).status()),
            "TOKENIZER_INVALID");
  metadata["tokenizer.ggml.scores"] = {0.0, nullptr};
  EXPECT_EQ(ReasonOf(LoadTokenizer({}, metadata).status()),
            "TOKENIZER_INVALID");
  metadata["tokenizer.ggml.scores"] = {0.0, -1.0};
  EXPECT_TRUE(LoadTokenizer({}, metadata).ok());
}

TEST(TokenizerJson, MalformedOnesAreRefused) {
  for (const char* text :
       {"", "{", "[]", "{}", "null", "\xff", R"({"model": {"type": "BPE"}})",
        R"({"version": "1.0", "added_tokens": [], "model":
            {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}})",
        R"({"version": "1.0", "added_tokens": [{"id": -1}], "model":
            {"type": "BPE", "vocab": {}, "merges": []}})"}) {
    const auto tokenizer = Load({{"tokenizer.json", text}});
    EXPECT_FALSE(tokenizer.ok()) << text;
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(TokenizerJson, TheConfigsPolicyReplacesTheFiles) {
  const std::string text =
      R"({"version": "1.0", "truncation": null, "padding": null,
          "added_tokens": [{"id": 1, "content": "<s>", "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false,
            "special": true}],
          "normalizer": null, "pre_tokenizer": null, "post_processor": null,
          "decoder": null, "model": {"type": "BPE", "dropout": null,
            "unk_token": null, "vocab": {"a": 0, "<s>": 1}, "merges": []}})";
  const auto plain =
      Load({{"tokenizer.json", text},
            {"tokenizer_config.json", R"({"bos_token": "<s>"})"}});
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_THAT(*(*plain)->Encode("a", true), ElementsAre(0));
  EXPECT_EQ((*plain)->bos_id(), 1);
  EXPECT_EQ((*plain)->json(), text);
  const auto forced =
      Load({{"tokenizer.json", text},
            {"tokenizer_config.json",
             R"({"bos_token": {"content": "<s>"}, "add_bos_token": true})"}});
  ASSERT_TRUE(forced.ok()) << forced.status();
  EXPECT_THAT(*(*forced)->Encode("a", true), ElementsAre(1, 0));
  EXPECT_NE((*forced)->digest(), (*plain)->digest());
}

TEST(MergesFiles, MalformedOnesAreRefused) {
  const auto reason = [](const std::string& vocabulary,
                         const std::string& merges) {
    return ReasonOf(
        Load({{"vocab.json", vocabulary}, {"merges.txt", merges}}).status());
  };
  EXPECT_EQ(reason("[]", ""), "TOKENIZER_INVALID");
  EXPECT_EQ(reason(R"({"a": -1})", ""), "TOKENIZER_INVALID");
  EXPECT_EQ(reason(R"({"a": 99999999})", ""), "TOKENIZER_INVALID");
  EXPECT_EQ(reason(R"({"a": 0})", "#version: 0.2\nab\n"), "TOKENIZER_INVALID");
  EXPECT_EQ(reason(R"({"a": 0})", "a b\n"), "TOKENIZER_INVALID");
}

TEST(LoadTokenizer, SaysWhenThereIsNone) {
  const auto none = LoadTokenizer({}, json::object());
  EXPECT_EQ(none.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(base::ErrorReason(none.status()), "TOKENIZER_MISSING");
}

TEST(Tokenizer, TextThatIsNotUtf8AndUnknownIdsAreRefused) {
  const auto tokenizer = Load({{"tokenizer.model", SmallModel()}});
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(ReasonOf((*tokenizer)->Encode("a\xff", false).status()),
            "TEXT_NOT_UTF8");
  EXPECT_EQ(ReasonOf((*tokenizer)->Decode({6}).status()), "TOKEN_OUT_OF_RANGE");
  EXPECT_EQ(ReasonOf((*tokenizer)->Decode({-1}).status()),
            "TOKEN_OUT_OF_RANGE");
}

}  // namespace
}  // namespace quantd::tokenizers
